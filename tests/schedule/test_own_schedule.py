"""A schedule of a user's: one file and one line make it known everywhere."""

from pathlib import Path

import jax
import numpy as np
import pytest

from seq1f1b_jax.config import ScheduleConfig
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.plan.order import choose_plan
from seq1f1b_jax.schedule import (
    SCHEDULES,
    Costs,
    Schedule,
    closed_form,
    lower,
    make_plan,
    parse_grid,
    peak_units,
    register_schedule,
    replay,
    simulate,
)
from seq1f1b_jax.schedule.files.plan_file import read_plan
from tests.pipeline import cases
from tests.pipeline.errors import relative_errors
from tests.pipeline.own_stage import OwnStage
from tests.schedule.command import row, run
from tests.schedule.own_schedule import IN_GROUPS, in_groups

SIZES = {"num_ranks": 2, "num_microbatches": 3, "num_chunks": 2}
WORDS = ["--ranks", "2", "--microbatches", "3", "--chunks", "2"]
PATH = "tests.schedule.own_schedule:IN_GROUPS"


@pytest.fixture(params=["in-groups", PATH])
def name(request, own_schedules):
    register_schedule("in-groups", IN_GROUPS)
    return request.param


def test_it_is_listed(capsys, name):
    listed = row(run(capsys), "in-groups")
    assert listed == ["min(P, M)*C", "ceil(M/P)(P-1)(F+B)", "--chunks"]


def test_it_is_drawn_saved_and_compared(capsys, tmp_path, name):
    files = ["--save", str(tmp_path / "a.csv"), "--draw", str(tmp_path / "a.svg")]
    out = run(capsys, name.upper() if name != PATH else name, *WORDS, *files, "--compare", "1f1b")
    assert row(out, "peak units, by rank") == ["4 4", "4 4", "min(P, M)*C"]
    assert row(out, "bubble time")[:2] == ["6", "6"]
    grid = out.split("order of work")[1].split("\n\n")[0]
    plan = make_plan(name, **SIZES)
    assert parse_grid(grid, name=name) == plan == read_plan(tmp_path / "a.csv")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_it_is_simulated_lowered_and_replayed(name):
    costs = Costs(forward=1, backward=2)
    for num_ranks, num_microbatches, num_chunks in np.ndindex(4, 6, 3):
        sizes = num_ranks + 1, num_microbatches + 1, num_chunks + 1
        sizes = dict(zip(SIZES, sizes, strict=True))
        plan, form = make_plan(name, **sizes), closed_form(name, costs, **sizes)
        assert peak_units(plan) == form.peak_units
        for machine in form.machines:
            assert simulate(plan, costs, machine=machine).bubble == form.bubble
        replay(lower(plan, (4,) * plan.num_chunks))


def test_it_runs_exactly(x64, name):
    plan, notes = choose_plan(
        ScheduleConfig(name=name, num_microbatches=3, num_chunks=2), num_ranks=2
    )
    assert (plan.name, notes) == (name, ())
    stage, float64 = OwnStage(), ExecutorOptions(compute_dtype="float64")
    step = build_step(stage, plan, make_mesh(2), chunk_lengths=(3, 4), options=float64)
    params = cases.parameters(stage, "float64")
    tokens = np.random.default_rng(0).integers(11, size=(3, 1, 7)).astype(np.int32)
    loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), tokens, tokens)
    expected_loss, expected = cases.reference(stage, params, (tokens, tokens), "float64")
    assert abs(float(loss) / float(expected_loss) - 1) <= 1e-12
    assert max(relative_errors(step.to_canonical(grads), expected).values()) <= 1e-10


def test_formulas_are_optional(capsys, own_schedules):
    register_schedule("bare", Schedule(in_groups))
    assert row(run(capsys), "bare")[:2] == ["-", "-"]
    assert "closed form" not in run(capsys, "bare", *WORDS)
    register_schedule("half", Schedule(in_groups, IN_GROUPS.in_flight))
    assert row(run(capsys, "half", *WORDS), "bubble time") == ["6", "-"]


def test_a_module_of_the_working_directory_is_found(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    source = Path(__file__).with_name("own_schedule.py").read_text("utf-8")
    Path("brought_along.py").write_text(source, encoding="utf-8")
    out = run(capsys, "1f1b", *WORDS[:4], "--compare", "brought_along:in_groups")
    assert row(out, "comparison") == ["1f1b", "brought_along:in_groups"]


def _two_ranks_always(*, num_ranks, num_microbatches, num_chunks):
    return in_groups(num_ranks=2, num_microbatches=num_microbatches, num_chunks=num_chunks)


def _out_of_order(*, num_ranks, num_microbatches, num_chunks):
    plan = in_groups(num_ranks=num_ranks, num_microbatches=num_microbatches, num_chunks=num_chunks)
    return plan.parse(plan.text().replace("F0.0 F0.1", "F0.1 F0.0"))


def _nothing(*, num_ranks, num_microbatches, num_chunks):
    return None


@pytest.mark.parametrize(
    ("own", "generate", "reported"),
    [
        ("seq1f1b", in_groups, "'seq1f1b' is registered already; choose another name"),
        ("My Own", in_groups, "'My Own' must be one word of lower-case letters"),
        ("a:b", in_groups, "'a:b' must be one word"),
        ("own", lambda num_ranks: None, r"takes num_ranks; write \(\*, num_ranks, num_micro"),
        ("own", lambda **sizes: None, "takes sizes; write"),
        ("own", 3, "takes no arguments by name; write"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_registered_is_refused(own_schedules, own, generate, reported):
    before = list(SCHEDULES)
    with pytest.raises(ValueError, match=reported):
        register_schedule(own, Schedule(generate))
    assert list(SCHEDULES) == before


@pytest.mark.parametrize(
    ("generate", "reported"),
    [
        (_two_ranks_always, "gave a plan of num_ranks=2 where 3 was asked for"),
        (_out_of_order, "plan in-groups, rank 0, action 0: F0.1 comes before F0.0"),
        (_nothing, "gave a NoneType; return a Plan"),
    ],
)
def test_plans_of_a_users_generator_are_checked(own_schedules, generate, reported):
    register_schedule("own", Schedule(generate))
    with pytest.raises(ValueError, match=reported):
        make_plan("own", **SIZES | {"num_ranks": 3})


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("no_such_module:x", "schedule=no_such_module:x: no_such_module was not found"),
        ("tests.schedule.own_schedule:IN_GROUP", "has no 'IN_GROUP'; did you mean 'IN_GROUPS'"),
        (
            "tests.schedule.own_schedule:Sizes",
            "takes P, M, C, V, extra_warmup, short_warmup; write",
        ),
        ("tests.schedule.own_schedule:MACHINES", "takes no arguments by name"),
    ],
)
def test_a_path_that_names_no_schedule_is_refused(path, reported):
    with pytest.raises(ValueError, match=reported):
        make_plan(path, **SIZES)
