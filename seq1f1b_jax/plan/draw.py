"""Memory and time of every rank as bars, with matplotlib."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.picture.files import write_file
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.work import KINDS
from seq1f1b_jax.schedule import Op

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf")
COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255",
    "#997700", "#225522", "#663333",
)
"""Tol's bright and dark schemes: told apart by every common form of colour blindness."""
WAITING = "#eeeeee"


def check_picture(path: str) -> None:
    """Refuse a picture that could not be written, before the work.

    Raises:
      UserError: another suffix, or no folder for it.
    """
    file, shown = resolve(path), one_line(path)
    if file.suffix not in SUFFIXES:
        raise UserError(f"--draw {shown}: use a name that ends in {', '.join(SUFFIXES)}")
    if not file.parent.is_dir():
        folder = one_line(Path(path).parent)
        raise UserError(f"--draw {shown}: {folder} is no folder; create it first")


def draw_estimate(estimate: Estimate, path: str) -> None:
    """Draw what each rank holds and what its step is spent on.

    Args:
      estimate: of a configuration.
      path: of the picture; an older one is replaced.
    """
    from matplotlib.figure import Figure

    ranks = range(estimate.draft.num_ranks)
    names = [str(rank) for rank in ranks]
    figure = Figure(figsize=(10, 1.8 + 0.32 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, names, _memory(estimate))
    usable = estimate.hardware.usable / 1e9
    left.axvline(usable, color="#16181d", linestyle="--", linewidth=1)
    left.axvline(estimate.held / 1e9, color="#16181d", linewidth=1)
    left.set(xlabel="GB used; line: allocated, dashed: usable", ylabel="rank", title="memory")
    _bars(right, names, _time(estimate))
    right.set(xlabel="seconds of a step", title="time")
    left.invert_yaxis()
    for axes in (left, right):
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3, frameon=False,
            fontsize="small",
        )
    save_figure(figure, path)


def save_figure(figure: "Figure", path: str) -> None:
    """Write a figure whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    buffer, file = BytesIO(), resolve(path)
    figure.savefig(buffer, format=file.suffix[1:], dpi=150)
    try:
        write_file(file, buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write --draw {one_line(path)}: {error.strerror}") from error


def _memory(estimate: Estimate) -> Mapping[str, Sequence[float]]:
    """GB by term, one for each rank."""
    state, ranks = estimate.draft.state, len(estimate.used)
    terms = {"parameters": [state.params / 1e9] * ranks, "moments": [state.moments / 1e9] * ranks}
    for name in estimate.memory.terms():
        terms[name.replace("_", " ")] = [memory.terms()[name] / 1e9 for memory in estimate.used]
    return terms


def _time(estimate: Estimate) -> Mapping[str, Sequence[float]]:
    """Seconds by kind, one for each rank."""
    draft, work, total = estimate.draft, estimate.work, estimate.time.total
    ops = (Op.F, Op.I, Op.W) if draft.plan.splits else (Op.F, Op.B)
    units, num_ranks = draft.plan.num_microbatches, draft.num_ranks
    terms = {}
    for kind in KINDS:
        stages = units * np.sum([work.by_op[op][kind].sum(axis=1) for op in ops], axis=0)
        terms[kind] = [float(stages[rank::num_ranks].sum()) for rank in range(num_ranks)]
    terms["once per step"] = [estimate.once] * num_ranks
    spent = [sum(values) for values in zip(*terms.values(), strict=True)]
    terms["waiting"] = [max(0.0, total - seconds) for seconds in spent]
    return terms


def _bars(axes: "Axes", names: Sequence[str], terms: Mapping[str, Sequence[float]]) -> None:
    """Stacked horizontal bars of the terms that are seen."""
    starts = [0.0] * len(names)
    largest = max(sum(values) for values in zip(*terms.values(), strict=True))
    seen = {name: values for name, values in terms.items() if max(values) > 0.003 * largest}
    for index, (name, values) in enumerate(seen.items()):
        colour = WAITING if name == "waiting" else COLOURS[index % len(COLOURS)]
        axes.barh(names, values, left=starts, color=colour, label=name)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
