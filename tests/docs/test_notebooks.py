"""Notebooks say what their sources say, show what they print and draw, and run."""

import re

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra notebook")
pytest.importorskip("jupytext", reason="needs the extra notebook")

from notebooks.__main__ import FOLDER, load, names, run

NAMES = names()


def stored(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell gave: the streams it wrote to, and the forms of what it showed."""
    return [out.get("name") or sorted(out.get("data", {})) for out in cell.outputs]


def test_all_are_found():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_its_source(name):
    """`make notebooks` writes it; it is not edited."""
    source, written = load(name), stored(name)
    nbformat.validate(written)
    assert written.metadata == source.metadata
    expected = [(cell.id, cell.cell_type, cell.source) for cell in source.cells]
    assert [(cell.id, cell.cell_type, cell.source) for cell in written.cells] == expected


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_one_run(name):
    cells = code_cells(stored(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [kind for cell in cells for kind in kinds(cell)]
    assert "stderr" not in shown
    assert any("image/png" in kind for kind in shown)
    written = "".join(out.get("text", "") for cell in cells for out in cell.outputs)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|opt)/", written), "of one machine"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_something(name):
    text = "\n".join(cell.source for cell in load(name).cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in link or (FOLDER / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name):
    """Each in a kernel of its own, in the folder where it lies; in about two minutes or less."""
    ran, before = run(load(name)), stored(name)
    for now, then in zip(code_cells(ran), code_cells(before), strict=True):
        assert kinds(now) == kinds(then), now.source
