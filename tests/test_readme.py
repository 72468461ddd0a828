"""What README and docs say is so: code runs, commands parse, pictures, settings and paths exist."""

import re
import shlex
from pathlib import Path

import pytest

from seq1f1b_jax.cli import parse
from seq1f1b_jax.cli.keys import is_setting, setting_types
from seq1f1b_jax.config.checks import problems
from tests.journey.clone import Clone
from tests.journey.journey import chosen, journey
from tests.journey.pages import DOWNLOADS, NEEDS, PAGES, README, ROOT, blocks, commands
from tests.test_architecture import ARROWS

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
INDEX = ROOT / "docs" / "index.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
SCHEDULES = ROOT / "docs" / "schedules.md"
OWN_MODEL, OWN_SCHEDULE = (ROOT / "docs" / f"own_{what}.md" for what in ("model", "schedule"))
COMMANDS = commands()
QUICK_COMMANDS = re.compile(
    r"mkdir|python (-m seq1f1b_jax\.explore|train\.py.* --(help|print_config))"
)
SECTIONS = {name.split(".")[0] for name in setting_types()}
NO_PATH = {"config.yaml", "source/", "pipeline/stage.py"}  # of a run; short, below a picture


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page", [README, pytest.param(OWN_MODEL, marks=pytest.mark.slow), OWN_SCHEDULE], ids=name_of
)
def test_code_runs(page, own_schedules):
    code = "\n".join(blocks(page, "python"))
    names: dict = {"__name__": "page"}
    exec(compile(code, name_of(page), "exec"), names)
    assert float(names["loss"]) > 0 and names["grads"].embedding.any()


@pytest.mark.parametrize(
    "page, file, block",
    [
        (OWN_MODEL, "pipeline/own_stage.py", 0), (OWN_MODEL, "pipeline/cut_stage.py", -1),
        (OWN_SCHEDULE, "schedule/own_schedule.py", 0),
    ],
    ids=["model", "model cut over devices", "schedule"],
)
def test_pages_show_the_tested_file(page, file, block):
    source = (ROOT / "tests" / file).read_text("utf-8")
    shown = blocks(page, "python")[block]
    assert source.split('"""', 2)[2].strip() == shown.strip()


def test_commands_run_or_say_why_not():
    """What is not run is counted, so that nobody leaves a command out in passing."""
    run, left_out = chosen(COMMANDS, small=True), {c for c in COMMANDS if c.marked(NEEDS)}
    reasons = sorted(c.marker for c in COMMANDS if c.marker)
    print(f"{len(COMMANDS)} commands, {len(run)} run in small; exempted or for one way only:")
    print("\n".join(f"  {c.page}: {c.text} " for c in COMMANDS if c.marker))
    assert len(left_out) == 16, reasons
    assert all(c.marked(NEEDS, DOWNLOADS) for c in COMMANDS if c.marker), reasons
    assert len(run) == len(COMMANDS) - 17
    small, full = ({c.text for c in chosen(COMMANDS, small=small)} for small in (True, False))
    assert small | full == {c.text for c in COMMANDS if c not in left_out}


def test_commands_without_training_run(tmp_path):
    """In the order of the text: what one saves, a later one reads."""
    quick = [c for c in COMMANDS if QUICK_COMMANDS.match(c.text) and not c.marker]
    assert len(quick) >= 9
    clone = Clone(tmp_path / "a clone", small=True, stand_in=False)
    (clone.folder / "runs").mkdir()  # that of the first run
    for end in journey(clone, quick, small=True):
        assert end.status == 0, (end.command.text, end.output)
        assert end.command.output in end.output
    assert clone.left_behind() == set()
    pictures = [c.output for c in quick if c.output]
    assert pictures and max(len(row) for text in pictures for row in text.splitlines()) <= 100


@pytest.mark.slow
def test_every_command_runs_as_it_is_typed(tmp_path):
    """All pages in one clone, in order; with small models. As it is: `python -m tests.journey`."""
    clone = Clone(tmp_path / "a clone", small=True)
    for end in journey(clone, small=True):
        assert end.status == 0, (end.command.text, end.output)
        assert end.command.output in end.output
        assert "add steps with" not in end.output, f"nothing to do for {end.command.text}"
    assert clone.left_behind() == set()


SEVERAL = [
    shlex.split(command.text.partition("  # ")[0].replace("\\\n", ""))
    for command in COMMANDS
    if command.marked(NEEDS) and ("train.py" in command.text or "sbatch" in command.text)
]


@pytest.mark.parametrize("words", SEVERAL, ids=" ".join)
def test_commands_that_are_not_run_are_valid(words):
    before = ("train.py", "launch/slurm.sbatch", "--")
    start = max(i for i, word in enumerate(words) if word in before)
    config = parse(words[start + 1 :], recipes=ROOT / "mesh_configs").config
    assert list(problems(config)) == []


def test_runs_that_need_more_are_told_of():
    assert len(SEVERAL) == 7


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_exist(page):
    text = page.read_text("utf-8")
    named = set(re.findall(r"--(\w+(?:\.\w+)+)", text))
    named |= {word for word in re.findall(r"`(\w+\.\w+)`", text) if word.split(".")[0] in SECTIONS}
    types = setting_types()
    unknown = {name for name in named if not is_setting(name, types)} - NO_PATH - {"train.py"}
    assert not unknown, f"no such setting: {sorted(unknown)}"


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=name_of)
def test_paths_exist(page):
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    quoted = re.findall(r"`([\w./-]+(?:\.py|\.md|\.yaml|\.ipynb|/))`", text)
    missing += [path for path in quoted if path not in NO_PATH and not (ROOT / path).exists()]
    assert not missing, f"no such path: {missing}"


def test_the_map_shows_every_part_of_the_house():
    [picture] = blocks(ARCHITECTURE, "")
    named = re.findall(r"(?<![\w/])(?:seq1f1b_jax|models|mesh_configs)/[\w./]*", picture)
    parts = [re.sub(r"^seq1f1b_jax/|/$|\.py$", "", path).replace("/", ".") for path in named]
    assert sorted(parts) == sorted(ARROWS)


def test_the_index_lists_every_page():
    links = re.findall(r"^- \[[^]]+\]\(([^)]+)\): \w", INDEX.read_text("utf-8"), re.MULTILINE)
    listed = {(INDEX.parent / link).resolve() for link in links}
    assert len(links) == len(listed)
    assert listed >= set(PAGES) - {INDEX}


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 10_500


@pytest.mark.parametrize(("row", "chunks"), [(1, 1), (2, 2), (3, 4), (4, 8)])
def test_the_table_over_chunks_follows_the_formulas(row, chunks):
    from seq1f1b_jax.schedule import Costs, closed_form

    lines = [line for line in SCHEDULES.read_text("utf-8").splitlines() if line.startswith("  |")]
    table = [[cell.strip() for cell in line.split("|")[1:]] for line in lines]
    header, _, bubble, in_flight = table
    sizes = {"num_ranks": 8, "num_microbatches": 8, "num_chunks": chunks}
    form = closed_form("seq1f1b", Costs(forward=1, backward=2), **sizes)
    assert int(header[row]) == chunks
    assert bubble[row] == f"{100 * form.bubble_fraction:.1f} %"
    assert in_flight[row] == f"{form.peak_units[0] / chunks:g}"
