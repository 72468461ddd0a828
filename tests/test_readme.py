"""What README and docs say is so: code runs, commands parse, pictures, settings and paths exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from seq1f1b_jax.cli import parse
from seq1f1b_jax.cli.keys import setting_types
from seq1f1b_jax.config_checks import validate
from seq1f1b_jax.data.prepare.options import parser as data_parser
from seq1f1b_jax.launch.options import parse as parse_launch
from seq1f1b_jax.schedule.__main__ import main as schedule_command

ROOT = Path(__file__).parents[1]
README, OWN_MODEL = ROOT / "README.md", ROOT / "docs" / "own_model.md"
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
PAGES = [README, ROOT / "launch" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SECTIONS = {name.split(".")[0] for name in setting_types()}
NO_PATH = {"config.yaml", "pipeline/stage.py"}  # of a run's folder; short for a path given above it


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of one language (empty for none), in order."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M)
    return [text for tag, text in fenced if tag == language]


def notebook_cells(kind: str) -> list[str]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def commands(program: str) -> list[list[str]]:
    """Arguments of every command line of README that runs `program`."""
    shell = [block.replace("\\\n", "") for block in blocks(README, "sh")]
    lines = [line for block in shell for line in block.splitlines()]
    lines += [block.splitlines()[0].removeprefix("$ ") for block in blocks(README, "")]
    return [shlex.split(line[len(program):]) for line in lines if line.startswith(program + " ")]


@pytest.mark.parametrize("page", [README, OWN_MODEL], ids=name_of)
def test_code_runs(page):
    code = "\n".join(blocks(page, "python"))
    names: dict = {"__name__": "page"}
    exec(compile(code, name_of(page), "exec"), names)
    assert float(names["loss"]) > 0 and names["grads"].embedding.any()


@pytest.mark.parametrize("file, block", [("own_stage.py", 0), ("cut_stage.py", -1)])
def test_own_model_shows_the_tested_file(file, block):
    source = (ROOT / "tests" / "pipeline" / file).read_text("utf-8")
    shown = blocks(OWN_MODEL, "python")[block]
    assert source.split('"""', 2)[2].strip() == shown.strip()


@pytest.mark.slow
def test_notebook_runs():
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(notebook_cells("code"))],
        env=environment, capture_output=True, text=True, timeout=600,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "4 stages on cpu"


def test_notebook_is_well_formed():
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert (cell["cell_type"] == "code") == ("outputs" in cell) == ("execution_count" in cell)


def test_picture_is_what_the_command_prints(capsys):
    command, picture = blocks(README, "")[0].split("\n", 1)
    words = shlex.split(command.removeprefix("$ python -m seq1f1b_jax.schedule"))
    assert schedule_command(words) == 0
    assert picture in capsys.readouterr().out
    assert max(map(len, picture.splitlines())) <= 100


def test_schedule_commands(capsys, monkeypatch, tmp_path):
    """In the order of the text: what one saves, a later one reads."""
    monkeypatch.chdir(tmp_path)
    for words in commands("python -m seq1f1b_jax.schedule"):
        assert schedule_command(words) == 0, (words, capsys.readouterr().err)
        assert "bubble time" in capsys.readouterr().out
        for option in ("--draw", "--save"):
            if option in words:
                assert (tmp_path / words[words.index(option) + 1]).stat().st_size > 0


@pytest.mark.parametrize("words", commands("python -m seq1f1b_jax.data"), ids=" ".join)
def test_data_command_parses(words):
    assert data_parser().parse_args(words).command == words[0]


@pytest.mark.parametrize(
    "words", [w for w in commands("python train.py") if "--help" not in w], ids=" ".join
)
def test_train_command_parses(words):
    assert parse(words, recipes=ROOT / "mesh_configs").config.train.num_steps > 0


SEVERAL = [
    *(list(parse_launch(words).command) for words in commands("python -m seq1f1b_jax.launch")),
    *(words[2:] for words in commands("sbatch")),
    *(words[3:] for words in commands("mpirun")),
]


@pytest.mark.parametrize("words", SEVERAL, ids=" ".join)
def test_commands_of_several_processes_are_valid(words):
    assert words[0] in ("train.py", "launch/slurm.sbatch")
    validate(parse(words[1:], recipes=ROOT / "mesh_configs").config)


def test_readme_shows_commands():
    assert len(SEVERAL) >= 3
    assert len(commands("python train.py")) >= 8
    assert len(commands("python -m seq1f1b_jax.schedule")) >= 4
    assert len(commands("python -m seq1f1b_jax.data")) >= 2


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_exist(page):
    text = page.read_text("utf-8")
    named = set(re.findall(r"--(\w+(?:\.\w+)+)", text))
    named |= {word for word in re.findall(r"`(\w+\.\w+)`", text) if word.split(".")[0] in SECTIONS}
    unknown = named - set(setting_types()) - NO_PATH
    assert not unknown, f"no such setting: {sorted(unknown)}"


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=name_of)
def test_paths_exist(page):
    text = "\n".join(notebook_cells("markdown")) if page == NOTEBOOK else page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    quoted = re.findall(r"`([\w./-]+(?:\.py|\.md|\.yaml|\.ipynb|/))`", text)
    missing += [path for path in quoted if path not in NO_PATH and not (ROOT / path).exists()]
    assert not missing, f"no such path: {missing}"


def test_layout_names_what_exists():
    picture = next(block for block in blocks(README, "") if "train.py" in block)
    ours = r"(?<![\w/])((?:seq1f1b_jax|models|mesh_configs)/[\w./]*|train\.py)"
    named = re.findall(ours, picture)
    assert len(named) == 14
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("row", "chunks"), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_the_table_over_chunks_follows_the_formulas(row, chunks):
    from seq1f1b_jax.schedule import Costs, closed_form

    lines = [line for line in README.read_text("utf-8").splitlines() if line.startswith("  |")]
    table = [[cell.strip() for cell in line.split("|")[1:]] for line in lines]
    header, _, bubble, in_flight = table
    sizes = {"num_stages": 8, "num_microbatches": 8, "num_chunks": chunks}
    form = closed_form("seq1f1b", Costs(forward=1, backward=2), **sizes)
    assert int(header[row]) == chunks
    assert bubble[row] == f"{100 * form.bubble_fraction:.1f} %"
    assert in_flight[row] == f"{form.peak_units[0] / chunks:g}"
