"""Sizes, time limit and results of the one-GPU benchmark; sections fail independently."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """What is measured; `speed` holds (seq_len, chunks and policies of the pipelined steps)."""

    preset: str
    vocab_size: int
    speed: tuple[tuple[int, tuple[tuple[int, str], ...]], ...]
    dense_limit: int
    attention_len: int
    attention_heads: int
    blocks: tuple[int, ...]
    exact_lengths: tuple[int, ...]
    small_len: int
    loop_trips: int
    repeats: int
    case_seconds: float


FULL = Sizes(
    preset="350m", vocab_size=32768,
    speed=(
        (8192, ((1, "none"), (4, "none"), (1, "selective"), (4, "selective"))),
        (32768, ((4, "none"), (1, "none"), (4, "selective"))),
    ),
    dense_limit=8192, attention_len=8192, attention_heads=16, blocks=(256, 512, 1024, 2048),
    exact_lengths=(160, 128, 96), small_len=1024, loop_trips=2000, repeats=7, case_seconds=30.0,
)
TOY = Sizes(
    preset="tiny", vocab_size=64,
    speed=((64, ((1, "none"), (4, "none"))), (128, ((4, "selective"),))),
    dense_limit=64, attention_len=64, attention_heads=2, blocks=(16, 32),
    exact_lengths=(20, 16, 12), small_len=32, loop_trips=10, repeats=2, case_seconds=5.0,
)


class Run:
    """Sizes, the time limit and the results so far."""

    def __init__(self, sizes: Sizes, deadline: float, *, out: str | None = None):
        self.sizes, self.deadline, self.out = sizes, deadline, out
        self.values: dict[str, Any] = {"sizes": asdict(sizes)}
        self.failed: list[str] = []
        self.started = time.monotonic()

    def section(self, name: str, function: Callable[["Run"], Any]) -> Any:
        """Run one section; an error is printed and recorded, and does not stop the others."""
        print(f"\n== {name} (at {time.monotonic() - self.started:.0f} s)", flush=True)
        try:
            return function(self)
        except Exception as error:  # one section may fail, the others are still measured
            self.fail(name, error)
            return None
        finally:
            self._write()

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
