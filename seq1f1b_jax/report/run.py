"""What the folder of a run tells about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from seq1f1b_jax.cli.keys import flatten
from seq1f1b_jax.cli.recipes import kept_settings
from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import RUN_CONFIG, one_line
from seq1f1b_jax.report.curves import Curve, curve_of
from seq1f1b_jax.report.trace import Trace, read_trace
from seq1f1b_jax.training.reports.events import EVENTS, read_memory
from seq1f1b_jax.training.reports.goodput import Goodput, Phase, has_ended, measure, read_phases
from seq1f1b_jax.training.reports.metrics import METRICS, parse_metrics
from seq1f1b_jax.training.reports.prediction import Prediction, read_prediction

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Run:
    """A run as its folder tells it; what the folder does not hold is None or empty.

    Attributes:
      name: as the user typed the folder.
      lines: of `metrics.jsonl`, in their order.
      settings: by dotted name.
      phases: of all attempts, in their order.
      goodput: where the time went.
      ended: whether the newest attempt ended by itself; None: not known.
      memory: bytes of a device by name, as the compiler and the device say (`preview/record.py`).
      prediction: of a step.
      trace: of one step.
      notes: what could not be read.
    """

    name: str
    lines: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    phases: tuple[Phase, ...]
    goodput: Goodput | None
    ended: bool | None
    memory: Mapping[str, int]
    prediction: Prediction | None
    trace: Trace | None
    notes: tuple[str, ...] = ()

    def curve(self, key: str) -> Curve:
        """A number over the steps; of no points where no line has it."""
        return curve_of(self.lines, key)

    @cached_property
    def num_steps(self) -> int:
        """Finished steps."""
        steps = self.curve("loss").step
        return int(steps[-1]) if len(steps) else 0

    @cached_property
    def step_seconds(self) -> float:
        """Median over the steps; NaN where none was timed."""
        return _median(self.curve("step_seconds").value)

    @cached_property
    def tokens_per_second(self) -> float:
        """Median over the steps; NaN where none was timed."""
        return _median(self.curve("tokens_per_second").value)

    @cached_property
    def num_tokens(self) -> float:
        """Tokens with a target in the steps that it kept; NaN where it is not known."""
        rate, seconds = self.curve("tokens_per_second"), self.curve("step_seconds")
        if not len(rate.value) or not np.array_equal(rate.step, seconds.step):
            return np.nan
        return float((rate.value * seconds.value).sum())


def read_run(folder: Path, name: str) -> Run:
    """Read a run, finished or in progress.

    Args:
      folder: of the run.
      name: what to call it.

    Raises:
      UserError: it is no folder of a run, or no step has been finished yet.
    """
    content = _metrics(folder)
    lines, num_bad = parse_metrics(content)
    if not any("loss" in line for line in lines):
        raise UserError(
            f"{folder / METRICS} holds no step yet; try again once the run has finished its first"
        )
    notes: list[str] = []

    def tried(read: Callable[[], T], otherwise: T) -> T:
        """What cannot be read is left out, and told."""
        try:
            return read()
        except UserError as error:
            notes.append(one_line(error))
        except OSError as error:
            notes.append(one_line(f"cannot read {error.filename} ({error.strerror})"))
        return otherwise

    events = tried(lambda: _events(folder), [])
    run = Run(
        name=name,
        lines=tuple(lines),
        settings=tried(lambda: _settings(folder), {}),
        phases=tuple(read_phases(events)),
        goodput=tried(lambda: measure(events), None) if events else None,
        ended=has_ended(events),
        memory=read_memory(events),
        prediction=tried(lambda: read_prediction(folder), None),
        trace=tried(lambda: read_trace(folder), None),
    )
    if num_bad:
        notes.append(f"{num_bad} of the lines of {METRICS} are not what a run writes; left out")
    notes += [text for key in ("loss", "grad_norm", "held_out_loss") if (text := _holes(run, key))]
    return replace(run, notes=tuple(notes))


def _metrics(folder: Path) -> bytes:
    path = folder / METRICS
    try:
        if folder.is_file():
            raise UserError(f"{folder} is a file; name the folder of a run")
        return path.read_bytes()
    except FileNotFoundError:
        what = "does not exist" if not folder.exists() else f"holds no {METRICS}"
        raise UserError(
            f"{folder} {what}; name the folder of a run that has begun (train.output_dir)"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); name a run's folder") from error


def _events(folder: Path) -> list[str]:
    path = folder / EVENTS
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / RUN_CONFIG
    return dict(flatten(yaml.safe_load(kept_settings(path)) or {})) if path.exists() else {}


def _holes(run: Run, key: str) -> str | None:
    step, value = run.curve(key)
    holes = step[~np.isfinite(value)]
    if not len(holes):
        return None
    shown = ", ".join(f"{number:.0f}" for number in holes[:5])
    more = f" and {len(holes) - 5} more" if len(holes) > 5 else ""
    return f"{key} is not finite in step {shown}{more}; the curve has a gap there"


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan
