"""`train.py report`: what it takes, what it refuses in one line, and what it does not import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from seq1f1b_jax.cli import parse
from seq1f1b_jax.cli.recipes import packaged_recipes
from tests.report.folders import read_page, write_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs, a folder and a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("runs/a"))
    write_run(Path("runs/b"))
    write_run(Path("runs/default"))
    Path("runs/empty").mkdir()
    Path("file").touch()
    return tmp_path


def outcome(capsys, *arguments):
    status = train.main(["report", *arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "page", "title"),
    [
        ([], "runs/default/report.html", "Run runs/default"),
        (["runs/a"], "runs/a/report.html", "Run runs/a"),
        (["runs/b/", "runs/a"], "runs/report.html", "Runs runs/b, runs/a"),
        (["--to", "x.html", "runs/a"], "x.html", "Run runs/a"),
        (["runs/a", "--to=X.HTML"], "X.HTML", "Run runs/a"),
        (["--train.output_dir", "runs/b", "--model.num_layers", "3", "--trace"],
         "runs/b/report.html", "Run runs/b"),
        (["--config", "default"], "runs/default/report.html", "Run runs/default"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_the_last_line_names_the_page(arguments, page, title, runs, capsys):
    status, out, err = outcome(capsys, *arguments)
    assert (status, err) == (0, "")
    assert out.startswith(f"open {page} in a browser to see how ")
    assert out.count("\n") == 1
    assert title in read_page(page).texts


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere does not exist; name the folder of a run"),
        (["runs/a", "runs/empty"], "runs/empty holds no metrics.jsonl"),
        (["file"], "file is a file; name the folder of a run"),
        (["runs/a/metrics.jsonl"], "metrics.jsonl is a file"),
        (["runs/a", "runs/a/"], "report runs/a runs/a/ names a run twice; name it once"),
        (["runs/a", "runs/../runs/a"], "are one run; name it once"),
        (["runs/a", "--to", "no/x.html"], "the folder of no/x.html does not exist; create it"),
        (["runs/a", "--to", "file/x.html"], "the folder of file/x.html does not exist"),
        (["runs/a", "--to", "x.txt"], "--to 'x.txt': the page is an HTML file"),
        (["runs/a", "--to", ""], "--to '': the page is an HTML file"),
        (["runs/a", "--to"], "--to: expected one argument"),
        (["runs/a", "--train.output_dir", "x"], "'runs/a' and --train.output_dir both name a run"),
        (["--prompt", "x"], "--prompt belongs to a command; use train.py generate --prompt"),
        (["--runs", "runs/a"], "unknown setting '--runs'"),
        ([""], "'' is an empty path"),
        (["a\0b"], "holds a zero character"),
        (["x" * 300], "File name too long"),
    ],
    ids=lambda value: " ".join(value)[:40].replace("\0", "0") if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(arguments, told, runs, capsys):
    before = sorted(runs.rglob("*"))
    status, out, err = outcome(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert told in err
    assert sorted(runs.rglob("*")) == before


def test_a_folder_in_the_place_of_the_page_is_refused(runs, capsys):
    Path("page.html").mkdir()
    status, _, err = outcome(capsys, "runs/a", "--to", "page.html")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot write page.html (Is a directory); name another page with --to FILE.html" in err


def test_a_damaged_configuration_of_another_run_is_no_obstacle(runs, capsys):
    Path("runs/default/config.yaml").write_text("model: [")
    assert outcome(capsys, "runs/a")[0] == 0


def test_words_may_stand_anywhere():
    told = parse(["runs/a", "report", "--to", "x.html", "b"], recipes=packaged_recipes())
    assert told.options.runs == (str(Path("runs/a").absolute()), str(Path("b").absolute()))


def test_a_page_is_drawn_without_jax_and_help_without_plotly(runs):
    code = (
        "import sys, train\n"
        "sys.modules['jax'] = sys.modules['jaxlib'] = None\n"
        "try: train.main(['report', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print('LOADED', *(name in sys.modules for name in ('plotly', 'numpy', 'yaml')))\n"
        "assert train.main(['report', 'runs/a']) == 0\n"
        "print('LOADED', 'plotly' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=runs, capture_output=True, text=True,
        timeout=60, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "report: A page that shows runs" in done.stdout and "[RUN ...]" in done.stdout
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == ["LOADED False False True", "LOADED True"]


def test_without_plotly_it_says_what_to_install(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    status, _, err = outcome(capsys, "runs/a")
    assert (status, err.count("\n")) == (2, 1)
    assert "a page needs plotly, which is not installed; in a clone: pip install" in err
