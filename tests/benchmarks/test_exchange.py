"""The exchanges of a ring on tiny sizes."""

import json

import numpy as np
import pytest

from benchmarks import exchange
from seq1f1b_jax.schedule import Costs, make_plan, simulate

SIZES = {"num_ranks": 4, "num_microbatches": 8, "num_chunks": 2}
MACHINES = {"free": "asynchronous", "late": "executor"}


@pytest.mark.parametrize("ratio", [1.0, 2.1])
def test_the_machines_are_those_of_the_simulator(ratio):
    chunk = np.linspace(1, ratio, 2)
    chunk = chunk / chunk.mean()
    for name, stages_per_rank, waits in (("seq1f1b-i", 2, MACHINES), ("seq1f1b", 1, {})):
        plan = make_plan(name, **SIZES, stages_per_rank=stages_per_rank)
        cost = exchange.costs_of(plan, 2.0, 0, ratio=ratio)
        costs = Costs(forward=chunk / stages_per_rank, backward=2 * chunk / stages_per_rank)
        for wait, machine in waits.items():
            expected = simulate(plan, costs, machine=machine).makespan
            assert exchange.WAITS[wait](plan, cost) == pytest.approx(expected, rel=1e-12)
        if not waits:
            expected = simulate(plan, costs, machine="executor").makespan
            assert exchange.by_parity(plan, cost) == pytest.approx(expected, rel=1e-12)


def test_who_waits_less_is_never_slower():
    for row in exchange.measure(2.0, sizes=[(3, 2), (4, 1)]):
        assert row["free"] <= row["late"] <= row["once"] + 1e-12, row
        assert row["once"] <= row["every tick"] + 1e-12, row


def test_last_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "SIZES", ((2, 2),))
    path = tmp_path / "exchange.json"
    assert exchange.main(["--backward", "1", "--out", str(path)]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["max_over_free"]["free"] == 1
    assert json.loads(path.read_text()) == values
