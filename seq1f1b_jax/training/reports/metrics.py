"""One JSON line per step in `metrics.jsonl`, and the same numbers to services on request.

    {"step": 41, "loss": 2.31, "grad_norm": 0.8, "learning_rate": 0.001, "step_seconds": 0.52,
     "data_seconds": 0.0001, "tokens_per_second": 15753.8, "positions_per_second": 15753.8,
     "model_flops_per_second": 2.1e10}
    {"step": 99, "held_out_loss": 1.92, "bigram_loss": 2.44}

`step` counts from 0; `data_seconds`, a part of `step_seconds`, is the wait for the batch; an
evaluation carries the step it came after. Tokens are those with a target, so
neither padding nor the last token of a document; positions are all of them. FLOPs are counted for
the former. A number that is not finite is written as null, since JSON has no NaN.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from seq1f1b_jax.host.files import LineFile, cannot_write, first_free, is_own, replace_file

METRICS = "metrics.jsonl"
BAD = ".bad"
"""Behind the name of the file: where lines are kept that no run wrote."""


class Receiver(Protocol):
    """Takes the numbers too, and files of the run (`training/tracking`)."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        ...

    def keep(self, path: Path) -> None:
        """Keep a file."""
        ...

    def close(self, *, failed: bool) -> None:
        """Flush and release."""
        ...


class MetricsWriter:
    """Appends to `metrics.jsonl`, one line at a time. See `LineFile` for kills and full disks.

    Opening drops the lines of `start_step` and later, which a run that is resumed will write
    again, and half a line that a killed run left. Lines that no run wrote go to
    `metrics.jsonl.bad`. The file is replaced atomically.

    Args:
      path: the file; made if it does not exist.
      start_step: first step that this run will write; 0 for a fresh run.
      sinks: further receivers, of `training/tracking`.
      say: receives notes about lines that are bad, or cannot be written.

    Raises:
      UserError: the file cannot be written.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "run", "metrics.jsonl")
      ...     with MetricsWriter(path, start_step=0) as metrics:
      ...         metrics.write(0, loss=5.5, grad_norm=1.0)
      ...         metrics.write(0, held_out_loss=5.6)
      ...     print(path.read_text(encoding="utf-8"), end="")
      {"step": 0, "loss": 5.5, "grad_norm": 1.0}
      {"step": 0, "held_out_loss": 5.6}
    """

    def __init__(
        self, path: str | Path, *, start_step: int, sinks: tuple[Receiver, ...] = (),
        say: Callable[[str], None] = print,
    ):
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_own(path):
                _keep_lines_before(path, start_step, say)
        except OSError as error:
            raise cannot_write(path, error) from error
        self._lines = LineFile(path, say=say)
        self._sinks = sinks

    def write(self, step: int, **values: float) -> None:
        """Append one line; values may be anything `float` takes, device scalars too."""
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        self._lines.add(json.dumps({"step": step, **finite}))
        for sink in self._sinks:
            sink.write(step, numbers)

    def catch_up(self) -> None:
        """Write what could not be written before, if it can be now."""
        self._lines.catch_up()

    def keep(self, *paths: Path) -> None:
        """Hand files of the run to the sinks."""
        for sink in self._sinks:
            for path in paths:
                sink.keep(path)

    @property
    def has_sinks(self) -> bool:
        """Whether anything beside the file takes numbers and files."""
        return bool(self._sinks)

    def close(self, *, failed: bool = False) -> None:
        """Close the file and the sinks."""
        self._lines.close()
        for sink in self._sinks:
            sink.close(failed=failed)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


class NoMetrics:
    """Stands in for a writer in a process whose numbers another one writes."""

    has_sinks = False

    def write(self, step: int, **values: float) -> None:
        """Nothing."""

    def catch_up(self) -> None:
        """Nothing."""

    def keep(self, *paths: Path) -> None:
        """Nothing."""

    def __enter__(self) -> "NoMetrics":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    r"""The lines of a `metrics.jsonl` in order, without half a line at the end, or bad ones.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "metrics.jsonl")
      ...     _ = path.write_text('{"step": 0, "loss": 5.5}\n{"step": 1, "lo')
      ...     read_metrics(path)
      [{'step': 0, 'loss': 5.5}]
    """
    return parse_metrics(Path(path).read_bytes())[0]


def parse_metrics(content: bytes) -> tuple[list[dict[str, Any]], int]:
    r"""The lines of a `metrics.jsonl` in order, and the number of those that no run wrote.

    Half a line at the end, which is being written or was cut by a kill, is neither.

    Example:
      >>> from seq1f1b_jax.training.reports.metrics import parse_metrics
      >>> parse_metrics(b'{"step": 0, "loss": 5.5}\nnoise\n{"step": 1, "lo')
      ([{'step': 0, 'loss': 5.5}], 1)
    """
    parsed = [_parsed(line) for line in _whole_lines(content)]
    found = [values for values in parsed if values is not None]
    return found, len(parsed) - len(found)


def keep_earlier(path: Path) -> tuple[Path, int] | None:
    """Rename the metrics of a run whose checkpoints are gone; None where there are none.

    Returns:
      The new name, and of how many steps they are.

    Raises:
      UserError: they cannot be renamed.
    """
    try:
        steps = {line["step"] for line in read_metrics(path)} if is_own(path) else ()
        return (path.rename(first_free(path)), len(steps)) if steps else None
    except OSError as error:
        raise cannot_write(path, error) from error


def _keep_lines_before(path: Path, start_step: int, say: Callable[[str], None]) -> None:
    kept, bad = [], []
    for line in _whole_lines(path.read_bytes()):
        found = _parsed(line)
        if found is None:
            bad.append(line)
        elif found["step"] < start_step:
            kept.append(line)
    if bad:
        aside = path.with_name(path.name + BAD)
        before = aside.read_bytes() if aside.is_file() else b""
        replace_file(aside, before + b"".join(bad))
        lines = "1 line" if len(bad) == 1 else f"{len(bad)} lines"
        say(f"note: {path} had {lines} that no run wrote, now kept in {aside.name}")
    replace_file(path, b"".join(kept))


def _whole_lines(content: bytes) -> Iterator[bytes]:
    """Lines with their ends; what comes behind the last line break is half a line."""
    *whole, _ = content.split(b"\n")
    return (line + b"\n" for line in whole)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The values in a line; None if no run wrote it."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    own = isinstance(found, dict) and type(found.get("step")) is int
    return found if own and all(map(_is_number, found.values())) else None


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)
