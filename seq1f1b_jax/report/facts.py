"""What each run is and how it went, in words and numbers: the rows of the page's table."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.report.predicted_figures import memory_parts
from seq1f1b_jax.report.run import Run
from seq1f1b_jax.report.units import seconds_text
from seq1f1b_jax.training.reports.goodput import DOWN, LOST

NOTHING = "-"


def facts(run: Run) -> dict[str, str]:
    """The rows of a run by their heading; what is not known is `-`."""
    return {
        "model": _model(run),
        "mesh": _mesh(run),
        "schedule": _schedule(run),
        "data": _data(run),
        "steps": _steps(run),
        "tokens": f"{run.num_tokens:,.0f}" if math.isfinite(run.num_tokens) else NOTHING,
        "training loss": _last(run, "loss"),
        "held-out loss": _held_out(run),
        "step": _step(run),
        "bubble": _bubble(run),
        "memory of a device": _memory(run),
        "wall time": _wall(run),
        "lost time": _lost(run),
        "restarts": _restarts(run),
    }


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings in which runs differ, by dotted name, with the value of each run.

    Not the folder, in which all differ; a run that has kept no settings differs from none.
    """
    kept = [run for run in runs if run.settings]
    names = sorted({name for run in kept for name in run.settings} - {"train.output_dir"})
    differing = [name for name in names if len({_value(run, name) for run in kept}) > 1]
    return {name: [_value(run, name) for run in runs] for name in differing}


def _value(run: Run, name: str) -> str:
    return str(run.settings[name]) if name in run.settings else NOTHING


def _model(run: Run) -> str:
    given = run.settings
    kind = given.get("model.stage") or given.get("model.family")
    words = [str(word) for word in (kind, given.get("model.preset")) if word]
    parts = [" ".join(words)] if words else []
    if given.get("model.num_layers"):
        parts.append(f"{given['model.num_layers']} layers of width {given.get('model.model_dim')}")
    if run.prediction is not None:
        parts.append(f"{run.prediction.num_params:,} parameters")
    return ", ".join(parts) or NOTHING


def _mesh(run: Run) -> str:
    axes = {name: run.settings.get(f"mesh.{name}") for name in ("pipe", "data", "tensor")}
    words = ", ".join(f"{name} {size}" for name, size in axes.items() if size is not None)
    if run.prediction is None:
        return words or NOTHING
    return f"{run.prediction.num_devices} x {run.prediction.device}" + f"; {words}" * bool(words)


def _schedule(run: Run) -> str:
    given: Mapping[str, Any] = run.settings
    name = given.get("schedule.plan") or given.get("schedule.name")
    if name is None:
        return NOTHING
    chunks, lengths = given.get("schedule.num_chunks"), given.get("schedule.chunk_lengths")
    how = "as listed" if lengths else given.get("schedule.partition")
    return (
        f"{name}: {given.get('schedule.num_microbatches')} microbatches, "
        f"{len(lengths) if lengths else chunks} chunks ({how})"
    )


def _data(run: Run) -> str:
    if "data.source" not in run.settings:
        return NOTHING
    sources = run.settings.get("data.sources") or {run.settings["data.source"]: 1}
    words = " + ".join(map(str, sources))
    words += f", sequences of {run.settings.get('data.seq_len')} tokens"
    if run.prediction is not None:
        words += f", {run.prediction.tokens_per_step:,} in a step"
    return words


def _steps(run: Run) -> str:
    planned = run.settings.get("train.num_steps")
    done = f"{run.num_steps:,}" + (f" of {planned:,}" if isinstance(planned, int) else "")
    if run.ended is False:
        return f"{done}: in progress, or killed"
    stopped = run.ended and isinstance(planned, int) and run.num_steps < planned
    return f"{done}: stopped" if stopped else done


def _last(run: Run, key: str) -> str:
    step, value = run.curve(key)
    finite = np.isfinite(value)
    return f"{value[finite][-1]:.4f} in step {step[finite][-1]:.0f}" if finite.any() else NOTHING


def _held_out(run: Run) -> str:
    step, value = run.curve("held_out_loss")
    finite = np.isfinite(value)
    if not finite.any():
        return NOTHING
    words = f"{value[finite][-1]:.4f} after step {step[finite][-1]:.0f}"
    best = int(np.nanargmin(value))
    if value[best] < value[finite][-1]:
        words += f", lowest {value[best]:.4f} after step {step[best]:.0f}"
    bigram = run.curve("bigram_loss").value
    bigram = bigram[np.isfinite(bigram)]
    return words + (f"; bigram model {bigram[-1]:.4f}" if len(bigram) else "")


def _step(run: Run) -> str:
    if not math.isfinite(run.step_seconds):
        return NOTHING
    words = f"{seconds_text(run.step_seconds)} (median)"
    if math.isfinite(run.tokens_per_second):
        words += f", {run.tokens_per_second:,.0f} tokens/s"
    if run.prediction is not None and run.prediction.step_seconds:
        words += f"; predicted {seconds_text(sum(run.prediction.step_seconds.values()))}"
    return words


def _bubble(run: Run) -> str:
    words = []
    if run.prediction is not None:
        words.append(f"{run.prediction.bubble_fraction:.1%} predicted")
    if run.trace is not None:
        measured = {name: x for name, x in run.trace.bubble.items() if "predicted" not in name}
        words += [f"{share:.1%} in the traced step ({name})" for name, share in measured.items()]
    return "; ".join(words) or NOTHING


def _memory(run: Run) -> str:
    totals = {kind: sum(parts.values()) for kind, parts in memory_parts(run).items()}
    words = [f"{size_text(total)} {kind}" for kind, total in totals.items()]
    if not words:
        return NOTHING
    if "peak" not in run.memory:
        words.append("the device reports no peak")
    if run.prediction is not None and run.prediction.host_bytes:
        words.append(f"{size_text(run.prediction.host_bytes)} of host memory")
    if run.prediction is not None and run.prediction.present_bytes is not None:
        sharing = run.prediction.sharing
        whose = "it has" if sharing == 1 else f"{sharing} share"
        words.append(f"{whose} {size_text(run.prediction.present_bytes)}")
    return "; ".join(words)


def _wall(run: Run) -> str:
    if run.goodput is None or not run.phases:
        return NOTHING
    words = seconds_text(run.goodput.wall_seconds)
    if run.goodput.counted_seconds < run.goodput.wall_seconds - 0.5:
        words += f", {seconds_text(run.goodput.counted_seconds)} of it meant to run"
    words += f"; {run.goodput.goodput:.1%} in useful steps"
    return f"{words}; began {_date(run.phases[0].begin)}"


def _lost(run: Run) -> str:
    if run.goodput is None:
        return NOTHING
    seconds = run.goodput.seconds
    words = []
    if run.goodput.lost_steps:
        words.append(f"{seconds_text(seconds[LOST])} for {run.goodput.lost_steps} steps done again")
    if seconds[DOWN]:
        words.append(f"{seconds_text(seconds[DOWN])} down")
    return "; ".join(words) or "none"


def _restarts(run: Run) -> str:
    if run.goodput is None:
        return NOTHING
    restarts = run.goodput.attempts - 1
    killed = run.goodput.cut_short - (run.ended is False)
    return f"{restarts}, {killed} of them after a kill" if restarts else "none"


def _date(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):  # of no clock
        return NOTHING
