"""Schedules from the command line: a plan of one's own, a recorded step, and what is refused."""

import json
import re

import numpy as np
import pytest

from seq1f1b_jax.schedule import forward_plan, make_plan
from seq1f1b_jax.schedule.files.plan_file import write_plan
from tests.run.tiny import command_line, losses, run

SIZES = {"num_ranks": 2, "num_microbatches": 4, "num_chunks": 2}


@pytest.mark.slow
def test_a_plan_from_a_file_trains_like_the_named_one(finished, source, tmp_path):
    path = tmp_path / "mine.csv"
    write_plan(make_plan("seq-zb-h1", **SIZES), path)
    outcome = run(*command_line(tmp_path / "run", source, schedule__plan=path))
    assert outcome.status == 0, outcome.err
    expected = losses(finished)
    np.testing.assert_allclose(
        list(losses(tmp_path / "run").values()), list(expected.values()), rtol=1e-5
    )
    path.unlink()  # what was trained does not need the plan
    arguments = command_line(tmp_path / "run", source, schedule__plan=path)
    evaluated, generated = run("evaluate", *arguments), run("generate", *arguments)
    assert evaluated.status == generated.status == 0, evaluated.err + generated.err
    assert "step 6: held-out loss" in evaluated.out


def test_trace_draws_a_step_and_changes_none(finished, source, tmp_path):
    outcome = run("--trace", *command_line(tmp_path / "run", source))
    assert outcome.status == 0, outcome.err
    told = re.search(r"traced one step: (\d+) ms measured, (\d+) ms predicted", outcome.out)
    assert told and int(told[1]) > 0 and int(told[2]) > 0
    assert losses(tmp_path / "run") == losses(finished)
    events = json.loads((tmp_path / "run" / "trace.json").read_text(encoding="utf-8"))
    events = events["traceEvents"] if isinstance(events, dict) else events
    actions = [event for event in events if event["ph"] == "X"]
    assert len(actions) == 2 * 2 * 2 * 4 * 2  # predicted and measured; ranks, ops, units
    for suffix in ("svg", "html"):
        text = (tmp_path / "run" / f"trace.{suffix}").read_text(encoding="utf-8")
        assert "seq1f1b, measured" in text and "seq1f1b, predicted" in text


REFUSED = {
    "unknown name": ({"schedule__name": "seq1f1bi"}, "did you mean 'seq1f1b-i'?"),
    "chunks of a whole-sequence schedule": (
        {"schedule__name": "zb-h1"}, "num_chunks=2 does not fit zb-h1",
    ),
    "stages without layers": (
        {"schedule__name": "seq1f1b-i", "schedule__stages_per_rank": 3},
        "model.num_layers=4 is fewer than mesh.pipe=2 ranks with schedule.stages_per_rank=3 each",
    ),
    "an option of another schedule": (
        {"schedule__name": "seq-zb-h1", "schedule__extra_warmup": 2},
        "extra_warmup=2 has no meaning for seq-zb-h1",
    ),
    "an option beside a plan": (
        {"schedule__plan": "mine.csv", "schedule__extra_warmup": 3},
        "schedule.extra_warmup=3 shapes a named schedule",
    ),
    "stages of a line": (
        {"schedule__stages_per_rank": 2}, "stages_per_rank=2 has no meaning for seq1f1b",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_exist_is_refused_in_one_line(changes, message, source, tmp_path):
    outcome = run(*command_line(tmp_path / "run", source, **changes))
    assert outcome.status == 2 and message in outcome.err
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_plan_without_backwards_is_refused(source, tmp_path):
    path = tmp_path / "forward.csv"
    write_plan(forward_plan(**SIZES), path)
    outcome = run(*command_line(tmp_path / "run", source, schedule__plan=path))
    assert outcome.status == 2 and "forward.csv holds no backward" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_plan_of_another_size_is_refused(source, tmp_path):
    path = tmp_path / "mine.csv"
    write_plan(make_plan("seq1f1b", **SIZES | {"num_microbatches": 3}), path)
    outcome = run(*command_line(tmp_path / "run", source, schedule__plan=path))
    assert outcome.status == 2
    assert "has num_microbatches=3, the run 4; use --schedule.num_microbatches 3" in outcome.err
