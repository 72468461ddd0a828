"""One JSON line per step in `metrics.jsonl`, and the same numbers to TensorBoard or W&B on request.

    {"step": 41, "loss": 2.31, "grad_norm": 0.8, "learning_rate": 0.001, "step_seconds": 0.52,
     "data_seconds": 0.0001, "tokens_per_second": 15753.8, "positions_per_second": 15753.8,
     "model_flops_per_second": 2.1e10}
    {"step": 99, "held_out_loss": 1.92, "bigram_loss": 2.44}

`step` counts from 0; `data_seconds`, a part of `step_seconds`, is the wait for the batch; an
evaluation carries the step it came after. Tokens are those that are trained on: with a target, so
neither padding nor the last token of a document; positions are all of them. FLOPs are counted for
the former. A number that is not finite is written as null, which JSON has and NaN is not.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from seq1f1b_jax.config import UserError

INSTALL = "in a clone: pip install '.[logging]'"


class Sink(Protocol):
    """Where numbers go beside the file."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one step."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class MetricsWriter:
    """Appends to `metrics.jsonl`, one flushed line at a time.

    Opening drops the lines of `start_step` and later, which a run that is resumed will write
    again, and half a line that a killed run left. The file is replaced atomically.

    Args:
      path: the file; made if it does not exist.
      start_step: first step that this run will write; 0 for a fresh run.
      sinks: further receivers, `tensorboard_sink(...)` and `wandb_sink(...)`.

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

    def __init__(self, path: str | Path, *, start_step: int, sinks: tuple[Sink, ...] = ()):
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _keep_lines_before(path, start_step)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror}); "
                "set train.output_dir to a folder that this user may write"
            ) from error
        self._sinks = sinks

    def write(self, step: int, **values: float) -> None:
        """Append one line; values may be anything `float` takes, device scalars too."""
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.write(step, numbers)

    def close(self) -> None:
        """Close the file and the sinks."""
        self._file.close()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NoMetrics:
    """Stands in for a writer in a process whose numbers another one writes."""

    def write(self, step: int, **values: float) -> None:
        """Nothing."""

    def __enter__(self) -> "NoMetrics":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    r"""The lines of a `metrics.jsonl` in order, without half a line at the end.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "metrics.jsonl")
      ...     _ = path.write_text('{"step": 0, "loss": 5.5}\n{"step": 1, "lo')
      ...     read_metrics(path)
      [{'step': 0, 'loss': 5.5}]
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _keep_lines_before(path: Path, start_step: int) -> None:
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] < start_step]
    temporary = path.with_name(path.name + ".new")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


class _TensorBoard:
    def __init__(self, writer: Any):
        self._writer = writer

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, run: Any):
        self._run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # W&B wants its own step to rise with every call; ours is a field like the others.
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


def tensorboard_sink(folder: str | Path, *, start_step: int) -> Sink:
    """TensorBoard event files in `folder`; events of `start_step` and later are hidden as redone.

    Raises:
      UserError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise _not_installed("logging.tensorboard", "tensorboardX") from error
    return _TensorBoard(SummaryWriter(str(folder), purge_step=start_step))


def wandb_sink(folder: str | Path, *, project: str, config: Mapping[str, Any]) -> Sink:
    """A Weights & Biases run with the run's configuration; its files go below `folder`.

    Raises:
      UserError: wandb is not installed.
    """
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise _not_installed("logging.wandb", "wandb") from error
    return _WandB(wandb.init(project=project, dir=str(folder), config=dict(config)))


def _not_installed(setting: str, package: str) -> UserError:
    return UserError(
        f"{setting}=true needs {package}, which is not installed; install the extra `logging` "
        f"({INSTALL}) or set {setting}=false"
    )
