"""Orders of work that no generator makes run exactly: mixed halves, late W, full inboxes."""

import random
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pytest

from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import Action, Exchange, Op, Plan, forward_plan, lower
from seq1f1b_jax.schedule.dependencies import dependencies
from tests.pipeline import cases
from tests.pipeline.errors import relative_errors
from tests.pipeline.own_stage import OwnStage


class Own(NamedTuple):
    """Sizes of a random plan, and how often its backwards are split."""

    seed: int
    P: int
    M: int
    lengths: tuple[int, ...]
    layers: tuple[int, ...]
    V: int = 1
    exchange: Exchange = Exchange.PARITY
    split: float = 0.5
    late: bool = False


PLANS = {
    "some backwards split": Own(1, P=2, M=3, lengths=(3, 4), layers=(1, 1)),
    "W at the end, unequal layers": Own(
        2, P=3, M=3, lengths=(4, 3), layers=(1, 2, 1), split=0.7, late=True
    ),
    "line in lock-step": Own(
        3, P=3, M=2, lengths=(2, 4, 3), layers=(2, 1, 1), exchange=Exchange.LOCKSTEP
    ),
    "ring": Own(4, P=2, M=2, lengths=(3, 2), layers=(1, 2, 1, 1), V=2, exchange=Exchange.LOCKSTEP),
}


LONG = ("some backwards split", "W at the end, unequal layers", "line in lock-step")


def random_plan(own: Own) -> Plan:
    """Any order that the dependencies allow."""
    rng = random.Random(own.seed)
    empty = Plan("own", own.P, own.M, len(own.lengths), ((),) * own.P, own.V, own.exchange)
    todo = [
        Action(op, stage, microbatch, chunk)
        for stage in range(own.P * own.V)
        for microbatch in range(own.M)
        for chunk in range(len(own.lengths))
        for op in (Op.F, *((Op.I, Op.W) if rng.random() < own.split else (Op.B,)))
    ]
    done, ranks = set(), [[] for _ in range(own.P)]
    while todo:
        ready = [a for a in todo if done.issuperset(dependencies(a, empty))]
        others = [a for a in ready if a.op is not Op.W]
        action = rng.choice(others if own.late and others else ready)
        todo.remove(action)
        done.add(action.event)
        ranks[empty.rank(action.stage)].append(action)
    return replace(empty, ranks=tuple(map(tuple, ranks)))


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(own, id=name, marks=[pytest.mark.slow] * (name in LONG))
        for name, own in PLANS.items()
    ],
)
def test_random_order_is_exact_with_nan_in_unused_slots(x64, own):
    plan, stage = random_plan(own), OwnStage(num_layers=sum(own.layers))
    step = build_step(
        stage, plan, make_mesh(own.P), chunk_lengths=own.lengths, layers_per_stage=own.layers,
        options=ExecutorOptions(compute_dtype="float64", fill=float("nan")),
    )  # fmt: skip
    params = cases.parameters(stage, "float64")
    tokens = np.random.default_rng(0).integers(11, size=(own.M, 1, sum(own.lengths)))
    tokens = tokens.astype(np.int32)
    loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), tokens, tokens)
    expected_loss, expected = cases.reference(stage, params, (tokens, tokens), "float64")
    assert abs(float(loss) / float(expected_loss) - 1) <= 1e-12
    assert max(relative_errors(step.to_canonical(grads), expected).values()) <= 1e-10


def test_these_plans_need_what_named_ones_do_not():
    tables = {name: lower(random_plan(own), own.lengths) for name, own in PLANS.items()}
    assert max(table.num_inbox_slots for table in tables.values()) > 2
    assert max(table.num_prefix_slots for table in tables.values()) > 1
    assert tables["some backwards split"].ops == (Op.F, Op.B, Op.I, Op.W)


def test_a_plan_without_backwards_has_no_gradients():
    plan = forward_plan(num_ranks=2, num_microbatches=1, num_chunks=1)
    step = build_step(OwnStage(), plan, make_mesh(2), chunk_lengths=(4,))
    tokens = np.zeros((1, 1, 4), np.int32)
    with pytest.raises(ValueError, match="plan forward holds no backward"):
        jax.eval_shape(step.loss_and_grads, step.abstract_params(), tokens, tokens)
