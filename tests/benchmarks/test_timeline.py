"""The sleeping step runs every action once, in the order of its rank, and exchanges as it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as Spec

from benchmarks import timeline
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.pipeline.executor import scan
from seq1f1b_jax.schedule import SCHEDULES, Costs, Exchange, lower


@pytest.mark.parametrize("exchange", timeline.MACHINES)
@pytest.mark.parametrize("name", ["seq1f1b", "seq-zb-h1", "seq1f1b-i"])
def test_a_step_sleeps_once_for_every_action(monkeypatch, name, exchange):
    slept = []

    def count(seconds, *values):
        slept.append(round(float(seconds), 3))
        return np.zeros((), np.float32)

    monkeypatch.setattr(timeline, "_sleep", count)
    plan = timeline.sleeping_plan(name)
    costs = Costs(forward=0.25, backward=0.75, weights=0.5)
    step = timeline.sleeping_step(plan, make_mesh(plan.num_ranks), costs, exchange)
    jax.block_until_ready(step())
    cost = costs.per_action(plan.num_stages, plan.num_chunks)
    assert sorted(slept) == sorted(cost(action) for row in plan.ranks for action in row)


@pytest.mark.parametrize("tick", [0, 1])
def test_all_neighbours_deliver_what_the_tick_delivers(tick):
    plan = timeline.sleeping_plan("seq1f1b")
    mesh, table = make_mesh(plan.num_ranks), lower(plan, (1,) * plan.num_chunks)

    def swap(exchange):
        body = jax.shard_map(
            lambda message: exchange(message, table, tick),
            mesh=mesh, in_specs=Spec(PIPE), out_specs=Spec(PIPE), check_vma=False,
        )  # fmt: skip
        return jax.jit(body)

    message = jnp.arange(1.0, 1 + plan.num_ranks)
    own, both = swap(scan.exchange), swap(timeline.all_neighbours)
    np.testing.assert_array_equal(own(message), both(message))
    permutes = [
        swapped.lower(message).as_text().count("collective_permute") for swapped in (own, both)
    ]
    assert permutes == [1, 2]


def test_only_parity_has_another_exchange():
    patterns = {
        name: (plan.exchange, len(timeline.exchanges(plan)))
        for name in SCHEDULES
        for plan in [timeline.sleeping_plan(name)]
    }
    assert set(patterns.values()) == {(Exchange.PARITY, 2), (Exchange.LOCKSTEP, 1)}


def test_a_step_lasts_from_the_first_start_to_the_last_end():
    spans = [[(0.0, 1.0), (5.0, 5.5)], [(0.5, 2.0), (4.0, 5.0)]]  # [rank][round]
    assert timeline.step_seconds(spans) == [2.0, 1.5]


def test_a_row_divides_by_its_own_machine():
    own = timeline.row("seq1f1b", "schedule's own", [3.0, 2.0, 1.0])
    every = timeline.row("seq1f1b", "all neighbours", [2.0])
    assert own["measured_over_model"] == 2.0 / own["model"]
    assert every["model"] > 1.25 * own["model"]
