"""One door to all forms: by the file's ending, whole or not at all, without what is not needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from seq1f1b_jax.picture import draw_figure, files, write, write_page
from tests.picture.cases import one_box, timeline

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("a.svg", b"<?xml"),
        ("a.png", b"\x89PNG"),
        ("a.html", b"<!DOCTYPE html>"),
        ("a.json", b'{"displayTimeUnit"'),
        ("A.SVG", b"<?xml"),
    ],
)
def test_the_ending_chooses_the_form(tmp_path, name, opening):
    write([one_box()], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(opening)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.pdf", "plan", "a.svg.gz"])
def test_another_ending_is_refused_with_the_four(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}'; end it in \.svg, \.png, \.html, \.json"):
        write([one_box()], tmp_path / name)


def test_a_figure_is_svg_or_png(tmp_path):
    with pytest.raises(ValueError, match=r"a\.html'; end it in \.svg or \.png"):
        draw_figure([one_box()], tmp_path / "a.html")


@pytest.mark.parametrize("writer", [write, write_page])
def test_a_missing_folder_is_named(tmp_path, writer):
    with pytest.raises(ValueError, match=r"folder .*/there .*does not exist; create it"):
        writer([one_box()], tmp_path / "there" / "a.html")


@pytest.mark.parametrize("name", ["a.svg", "a.html", "a.json"])
def test_units_are_checked_before_anything_is_written(tmp_path, name):
    with pytest.raises(ValueError, match="one time axis"):
        write([one_box(), one_box(unit="ms")], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("older")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(files.Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write([one_box()], path)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_pictures_need_no_jax_and_pages_and_traces_no_matplotlib(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['jax'] = sys.modules['jaxlib'] = sys.modules['matplotlib'] = None\n"
        "from seq1f1b_jax.picture import *\n"
        "from seq1f1b_jax.schedule import *\n"
        "plan = make_plan('seq1f1b', num_ranks=2, num_microbatches=2, num_chunks=2)\n"
        "line = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title='bare')\n"
        f"write([line], {str(tmp_path / 'a.html')!r})\n"
        f"write([line], {str(tmp_path / 'a.json')!r})\n"
        "try:\n"
        f"    write([line], {str(tmp_path / 'a.svg')!r})\n"
        "except ValueError as error:\n"
        "    assert '.svg needs matplotlib' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('drawn without matplotlib')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json"]


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write([timeline("small")], tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_drawing_needs_no_pyplot(tmp_path):
    code = (
        "import sys\n"
        "from tests.picture.cases import timeline\n"
        "from seq1f1b_jax.picture import write\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"write([timeline('small')], {str(tmp_path / 'a.svg')!r})\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
