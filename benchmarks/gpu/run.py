"""Time limit and results of the GPU benchmark; sections and cases fail independently."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.compiling import Programs
from benchmarks.gpu.sizes import Sizes


class Run:
    """Sizes, the time limit, the programs and the results so far."""

    def __init__(self, sizes: Sizes, deadline: float, *, out: str | None = None):
        self.sizes, self.deadline, self.out = sizes, deadline, out
        self.programs = Programs()
        shown = asdict(sizes)
        shown["attention"] = [[*heads, list(at)] for heads, at in sizes.attention.items()]
        self.values: dict[str, Any] = {"sizes": shown}
        self.failed: list[str] = []
        self.started = time.monotonic()

    def section(self, name: str, function: Callable[["Run"], Any]) -> Any:
        """Run one section; an error is printed and recorded, and does not stop the others."""
        begun = time.monotonic()
        print(f"\n== {name} (at {begun - self.started:.0f} s)", flush=True)
        try:
            return function(self)
        except Exception as error:  # one section may fail, the others are still measured
            self.fail(name, error)
            return None
        finally:
            self.values.setdefault("section_seconds", {})[name] = time.monotonic() - begun
            self._write()

    def case(self, name: str, function: Callable[[], Any]) -> Any:
        """The result of one measurement; `None`, recorded, if it fails or the time is up."""
        try:
            if self.seconds_left() < 0:
                raise TimeoutError("past --limit-seconds")
            return function()
        except Exception as error:  # out of memory, a kernel that refuses: the others go on
            self.fail(name, error)
            return None

    def fail(self, name: str, error: BaseException) -> None:
        """Record an error under the name of what failed."""
        frames = traceback.extract_tb(error.__traceback__)  # none where it was never raised
        where = f" ({frames[-1]})" if frames else ""
        print(f"FAILED {name}: {type(error).__name__}: {str(error)[:1500]}{where}", flush=True)
        self.failed.append(name)
        self.values.setdefault("errors", {})[name] = f"{type(error).__name__}: {error}"[:600]

    def seconds_left(self) -> float:
        """Seconds until no new measurement starts."""
        return self.deadline - time.monotonic()

    def finish(self) -> None:
        """Print the last line of JSON."""
        from benchmarks.common.report import finish

        self.values |= {"failed": self.failed, "seconds": time.monotonic() - self.started}
        finish(self.values, path=self._path())

    def _path(self) -> Path | None:
        return Path(self.out) if self.out else None

    def _write(self) -> None:
        if path := self._path():
            path.write_text(json.dumps(self.values) + "\n", encoding="utf-8")
