"""The table of even, balanced and spread heads; its machine is that of the simulation."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from benchmarks import stages
from seq1f1b_jax.schedule import Costs, Op, StageCost, assign_ticks, make_plan, simulate
from seq1f1b_jax.schedule.exchange import PERIOD


def test_last_line_has_the_ratios_of_every_shape(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SHAPES", [("gpt", "small", 1024, 2), ("gpt", "350m", 8192, 4)])
    path = tmp_path / "stages.json"
    assert stages.main(["--chunks", "2", "--out", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = json.loads(lines[-1])
    assert json.loads(path.read_text()) == values
    names = ["small_1024", "350m_8192"]
    for name, row in zip(names, values["rows"], strict=True):
        assert values[f"balanced_over_even_{name}"] == row["balanced"] <= 1
        assert row["floor"] < row["spread, free"] and row["floor"] < row["balanced"]
        for how, key in (("spread", ""), ("spread, lock-step", "_lockstep")):
            ratio = values[f"spread{key}_over_balanced_{name}"]
            assert ratio == pytest.approx(row[how] / row["balanced"], abs=1e-4)
    small, large = values["rows"]
    assert small["balanced stages"] == "2+2" and large["balanced"] < 0.95


@pytest.mark.parametrize("name", ["seq1f1b", "seq1f1b-lockstep"])
@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_without_a_head_a_tick_takes_what_it_takes_in_the_simulation(name, num_ranks):
    plan = make_plan(name, num_ranks=num_ranks, num_microbatches=5, num_chunks=2)
    rng = np.random.default_rng(0)
    forward, backward = rng.integers(1, 9, (2, num_ranks, 2))
    costs = Costs(forward=forward, backward=backward + 9)
    clocks = np.zeros(num_ranks)
    for tick, actions in enumerate(stages.by_tick(plan)):
        before = clocks.copy()
        stages.run(actions, clocks, plan, costs)
        stages.swap(tick, clocks, before, plan)
    assert clocks.max() == simulate(plan, costs, machine="executor").makespan


def test_meeting_in_every_second_tick_takes_two_backwards_a_unit():
    costs, heads = Costs(forward=10, backward=20), np.array([3])

    def times(num_microbatches):
        plan = make_plan("seq1f1b", num_ranks=8, num_microbatches=num_microbatches, num_chunks=1)
        late = [stages.late_time(stages.later(plan, n), costs, heads, n) for n in (1, 2, 3)]
        together = (plan, stages.like(plan, name=stages.LOCKSTEP))
        return np.array([stages.together_time(each, costs, heads) for each in together] + late)

    parity, lockstep, *late = (times(100) - times(50)) / 50  # of one more unit
    assert (parity, lockstep) == (2 * 20 + 3, 10 + 20 + 3)
    # by parity a rank is B - F ahead of the next one, 70 in all: more than a turn
    assert late == [35, 33, 33]


def test_backwards_are_as_late_as_the_head_wants_them():
    for num_ranks, turns in product((4, 5), (1, 2, 3)):
        plan = make_plan("seq1f1b", num_ranks=num_ranks, num_microbatches=6, num_chunks=2)
        ticks, last = assign_ticks(stages.later(plan, turns)), num_ranks - 1
        waits = [
            tick // PERIOD - ticks[replace(action, op=Op.F)] // PERIOD
            for action, tick in ticks.items()
            if action.op is Op.B and action.stage == last
        ]
        assert min(waits) == 2 * turns + 1


def test_the_head_is_what_the_last_stage_does_besides_its_layers():
    cost = StageCost(
        model_dim=8, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=32, gated=False,
        vocab_size=100, layers_per_stage=(3, 1),
    )  # fmt: skip
    assert stages.head_costs(cost, (5, 2)).tolist() == [6 * 5 * 8 * 100, 6 * 2 * 8 * 100]
