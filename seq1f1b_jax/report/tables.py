"""The tables and lists of the page."""

import html
from collections.abc import Mapping, Sequence

from seq1f1b_jax.paths import one_line
from seq1f1b_jax.report.facts import differences, facts
from seq1f1b_jax.report.run import Run
from seq1f1b_jax.report.style import colour
from seq1f1b_jax.report.training_figure import thinned


def facts_table(runs: Sequence[Run]) -> str:
    """What each run is and how it went, a column per run."""
    found = [facts(run) for run in runs]
    return _table(runs, {name: [each[name] for each in found] for name in found[0]})


def differences_table(runs: Sequence[Run]) -> str:
    """Settings in which the runs differ; empty where there is none."""
    rows = differences(runs)
    return _table(runs, rows) if rows else ""


def notes_list(runs: Sequence[Run]) -> str:
    """What could not be read, and what the charts leave out."""
    several = len(runs) > 1
    notes = [f"{run.name}: {note}" if several else note for run in runs for note in run.notes]
    items = "".join(f"<li>{_text(note)}</li>" for note in [*notes, *thinned(runs)])
    return f'<ul class="notes">{items}</ul>' if items else ""


def settings_list(runs: Sequence[Run]) -> str:
    """All settings of each run, folded away."""
    return "".join(
        f"<details><summary>{_text(run.name)}</summary><pre>{_settings(run)}</pre></details>"
        for run in runs
        if run.settings
    )


def _settings(run: Run) -> str:
    return "\n".join(f"{_text(name)}: {_text(value)}" for name, value in run.settings.items())


def _table(runs: Sequence[Run], rows: Mapping[str, Sequence[str]]) -> str:
    heads = "".join(
        f'<th scope="col"><span class="swatch" style="background:{colour(index)}"></span>'
        f"{_text(run.name)}</th>"
        for index, run in enumerate(runs)
    )
    body = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows.items()
    )
    return f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _text(value: object) -> str:
    return html.escape(one_line(value))
