"""The page of one run or several: one HTML file that needs no network and no other file."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import one_line
from seq1f1b_jax.picture.files import write_file
from seq1f1b_jax.report.run import Run, read_run
from seq1f1b_jax.report.sections import sections
from seq1f1b_jax.report.tables import facts_table, notes_list

PAGE = "report.html"
INSTALL = "in a clone: pip install -c constraints.txt -e ."


def write_report(
    folders: Mapping[str, Path] | Sequence[str | Path], to: Path | None = None
) -> Path:
    r"""Write the page of runs, finished or in progress; an older page is replaced.

    Args:
      folders: of the runs, by the names that the page gives them; a list: their paths.
      to: the page; None: `report.html` in the folder of the run, or, of several, in the one that
        holds them all.

    Returns:
      Where the page is.

    Raises:
      UserError: a folder holds no run or no finished step, or the page cannot be written.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     step = {"step": 0, "loss": 5.5, "learning_rate": 1e-3, "grad_norm": 0.5}
      ...     _ = Path(folder, "metrics.jsonl").write_text(json.dumps(step) + "\n")
      ...     page = write_report([folder])
      ...     page.name, "Training loss" in page.read_text("utf-8")
      ('report.html', True)
    """
    named = folders if isinstance(folders, Mapping) else {str(path): path for path in folders}
    paths = {name: Path(path).absolute() for name, path in named.items()}
    _refuse_twice(paths)
    page = default_page(list(paths.values())) if to is None else Path(to)
    if to is not None and not page.parent.is_dir():
        raise UserError(f"the folder of {page} does not exist; create it, or name another page")
    text = page_of([read_run(path, name) for name, path in paths.items()])
    try:
        write_file(page, text.encode())
    except OSError as error:
        raise UserError(
            f"cannot write {page} ({error.strerror}); name another page with --to FILE.html"
        ) from error
    return page


def default_page(folders: Sequence[Path]) -> Path:
    """Where a page goes that nobody has named.

    Args:
      folders: of its runs, absolute.

    Raises:
      UserError: no folder holds them all, but the root of the file system.

    Example:
      >>> from pathlib import Path
      >>> default_page([Path("/w/runs/a")]).as_posix()
      '/w/runs/a/report.html'
      >>> default_page([Path("/w/runs/a"), Path("/w/runs/b")]).as_posix()
      '/w/runs/report.html'
    """
    folder = Path(os.path.commonpath(folders))
    if len(folders) > 1 and folder.parent == folder:
        raise UserError("the runs are in no folder together; name their page with --to FILE.html")
    return folder / PAGE


def page_of(runs: Sequence[Run]) -> str:
    """The text of the page.

    Args:
      runs: at least one; each has one colour in all charts.

    Raises:
      UserError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise UserError(f"a page needs plotly, which is not installed; {INSTALL}") from error

    names = ", ".join(one_line(run.name) for run in runs)
    now = datetime.now(UTC)
    parts = {
        "title": html.escape(f"Run{'s' * (len(runs) > 1)} {names}"),
        "written": f"Written {now:%Y-%m-%d %H:%M} UTC. Steps count from 1.",
        "plotly": get_plotlyjs(),
        "table": facts_table(runs),
        "notes": notes_list(runs),
        "sections": "\n".join(sections(runs)),
    }
    template = (files("seq1f1b_jax.report") / "page.html").read_text("utf-8")
    # One pass: what a name says is not searched for marks again.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _refuse_twice(paths: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        real = path.resolve()
        if real in seen:
            raise UserError(f"{name} and {seen[real]} are one run; name it once")
        seen[real] = name
