"""Settings and recipes gone wrong: refused in one line, or they run; nothing ends in a traceback.

All in this process. The good run behind the cases is refused by the very last check (its folder
lies below a file), so that whatever is damaged is looked at and nothing compiles, unless a case
names another folder: those train for one step.
"""

import contextlib
import functools
import importlib
import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import jax
import pytest

import train
from tests.cli.mutations import Case, cases, to_recipe
from tests.run.conftest import _quick_compiler, cache  # noqa: F401
from tests.run.tiny import SETTINGS

NUM_EVERYDAY, NUM_ALL, GROUP = 88, 1300, 22
RECIPE = {"RECIPE": ("--config", "recipe.yaml")}


GOOD = to_recipe(
    SETTINGS | {
        "model.preset": None, "model.num_layers": 2, "schedule.num_microbatches": 1,
        "schedule.num_chunks": 1, "data.source": "text.txt", "train.num_steps": 1,
        "train.eval_every": 0, "train.output_dir": "file/run", "logging.progress": False,
    }  # fmt: skip
)
"""Passes every check but the last one: a folder cannot lie below a file."""


@pytest.fixture(autouse=True)
def _one_parser(monkeypatch):
    """One parser for all cases: building it is most of their time."""
    parse = importlib.import_module("seq1f1b_jax.cli.parse")
    monkeypatch.setattr(parse, "_parser", one_parser(parse._parser))
    jax.devices()  # the tests' eight, whatever a case asks for


@functools.cache
def one_parser(make):
    return functools.cache(make)


def outcome(arguments):
    """Exit status, what went to standard output, what to standard error."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()  # out is strict, as a pipe is
    with mock.patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        try:
            status = train.main(arguments)
        except SystemExit as stop:  # --help
            status = stop.code or 0
    out.flush()
    return status, out.buffer.getvalue().decode(), err.getvalue()


def check(case: Case, folder) -> int:
    """Run a case in a folder of its own; its exit status."""
    folder.mkdir()
    (folder / "text.txt").write_text("hello world and good night " * 400, encoding="utf-8")
    (folder / "file").write_text("mine", encoding="utf-8")
    (folder / "recipe.yaml").write_bytes(GOOD if case.recipe is None else case.recipe)
    arguments = [part for word in case.arguments for part in RECIPE.get(word, (word,))]
    try:
        with contextlib.chdir(folder):
            status, _, err = outcome(arguments)
    except BaseException as error:
        error.add_note(f"train.main({arguments!r}) with the recipe {case.recipe!r}")
        raise
    told = f"train.main({arguments!r}) with the recipe {case.recipe!r}: {err!r}"
    assert status in (0, 2), told
    if status == 2:
        assert err.startswith("error: ") and err.count("\n") == err.endswith("\n") == 1, told
        assert len(err.splitlines()) == 1, told  # other line breaks than that of the end
    else:
        assert err == "", told
    return status


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.slow if first >= NUM_EVERYDAY else ())
        for first in range(0, NUM_ALL, GROUP)
    ],
)
def test_nothing_ends_in_a_traceback(first, tmp_path):
    group = list(cases(GOOD, min(first + GROUP, NUM_ALL)))[first:]
    statuses = [check(case, tmp_path / f"{first + i}") for i, case in enumerate(group)]
    assert statuses.count(2) >= len(group) // 2  # they are wrong indeed


@pytest.mark.parametrize("folder", ["naïve 東京 🙂", pytest.param("--a b", marks=pytest.mark.slow)])
def test_a_run_trains_wherever_its_folder_lies(folder, tmp_path):
    case = Case(("RECIPE", f"--train.output_dir={folder}"))
    assert check(case, tmp_path / "case") == 0
    lines = (tmp_path / "case" / folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss" in json.loads(line)] == [0]


def test_the_good_run_is_refused_for_its_folder_alone(tmp_path, monkeypatch):
    assert check(Case(("RECIPE",)), tmp_path / "case") == 2
    assert check(Case(("RECIPE", "--train.output_dir=run", "--print_config")), tmp_path / "a") == 0
