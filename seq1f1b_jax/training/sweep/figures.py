"""The rows of a sweep as CSV and as a picture."""

import csv
from collections.abc import Sequence
from io import StringIO

from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.picture.files import write_file
from seq1f1b_jax.plan.draw import save_figure
from seq1f1b_jax.training.sweep.run import Row

PREDICTED, MEASURED = "#bbbbbb", "#4477aa"


def write_csv(rows: Sequence[Row], path: str) -> None:
    """One line per configuration under the names of `Row`.

    Raises:
      UserError: it cannot be written.
    """
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows(rows)
    try:
        write_file(resolve(path), text.getvalue().encode())
    except OSError as error:
        raise UserError(f"cannot write --to {one_line(path)}: {error.strerror}") from error


def draw(rows: Sequence[Row], path: str) -> None:
    """Memory and time of every configuration that ran, predicted beside measured."""
    from matplotlib.figure import Figure

    ran = [row for row in rows if not row.problem]
    names = [f"{row.schedule} C={row.chunks} M={row.microbatches} {row.recompute}" for row in ran]
    figure = Figure(figsize=(10, 1.6 + 0.45 * len(ran)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "GB of a device", 1e9, "predicted_bytes", "compiled_bytes", "compiled"),
        (right, "seconds of a step", 1.0, "predicted_seconds", "measured_seconds", "measured"),
    )
    places = range(len(ran))
    for axes, label, unit, expected, found, word in panels:
        for shift, colour, field, name in (
            (-0.2, PREDICTED, expected, "predicted"), (0.2, MEASURED, found, word),
        ):
            values = [(getattr(row, field) or 0) / unit for row in ran]
            axes.barh([p + shift for p in places], values, 0.36, color=colour, label=name)
        axes.set(xlabel=label)
        axes.legend(frameon=False, fontsize="small", loc="lower right")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.set_yticks(list(places), names)
    left.invert_yaxis()
    save_figure(figure, path)
