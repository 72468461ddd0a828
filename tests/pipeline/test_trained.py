"""Frozen leaves: exact gradients of the others, nothing computed, kept or changed for these."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.executor.initial import gradient_shapes, state_shapes
from seq1f1b_jax.pipeline.params.trained import find_trained, leaf_names, merged
from seq1f1b_jax.training import init_state, make_train_step
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.errors import relative_errors
from tests.pipeline.test_exact import TOLERANCE
from tests.pipeline.test_weight_split import TOKENS, actions, program_of

NORMS, MLP, HEADS = ("*norm*", "last.*"), ("layers.mlp.*",), ("layers.attention.*",)
BUT_TABLE = ("layers.*", "last.*", "head")
CASES = {
    "all but norms frozen": (NORMS, Case(P=2, M=2, C=2, lengths="balanced")),
    "head only, one stage": (("head",), Case(P=1, M=2, C=2)),
    "tied table only, split": (
        ("embedding",), Case(P=2, M=2, C=2, family="gpt", tied=True, schedule="seq-zb-h1")
    ),
    "MLP frozen, split, two devices": (
        (*HEADS, "embedding"), Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", lengths="balanced")
    ),
    "embedding frozen, a ring": (
        BUT_TABLE, Case(P=2, V=2, M=2, C=4, schedule="seq1f1b-i", recompute="none")
    ),
    "embedding only, four stages": (("embedding",), Case(P=4, M=2, C=2, masks="restart")),
    "head only, four stages, everything again": (
        ("head", "last.*"), Case(P=4, M=2, C=4, recompute="full")
    ),
    "tied table frozen, one stage, unrolled": (
        ("layers.*",), Case(P=1, M=2, C=2, tied=True, unroll=2, recompute="none")
    ),
    "positions only, three ranks of two devices": (
        ("first.table",), Case(P=3, T=2, M=2, C=2, family="gpt", sequence=True)
    ),
    "positions frozen, two pipelines": (
        ("embedding", "layers.*"), Case(P=2, D=2, M=2, C=2, family="gpt", masks="restart")
    ),
    "norms of both pieces, split, matmuls again": (
        NORMS, Case(P=3, M=3, C=2, schedule="seq-zb-h1", recompute="matmuls", layers="unequal")
    ),
    "one matrix, halves": (
        ("layers.mlp.down.kernel",),
        Case(P=2, T=2, M=2, C=2, lengths="balanced", sequence=True, halves=True),
    ),
    "attention frozen, on the host": (
        MLP, Case(P=2, M=2, C=2, schedule="seq-zb-h1", offload=0.5, masks="packed")
    ),
    "float32": (MLP, Case(P=2, M=2, C=2, x64=False)),
}
EVERY_DAY = tuple(CASES)[:3]


def frozen_step(case: Case, patterns: tuple[str, ...] | None, stage=None):
    """The step of a case in which only the leaves that patterns name train."""
    step = cases.build(case, stage=stage)
    return replace(step, options=replace(step.options, trainable=patterns))


def check_trained(case: Case, patterns: tuple[str, ...] | None, stage=None) -> None:
    """Loss and the gradients of what trains equal plain `jax.grad`; of the rest there are none."""
    with jax.enable_x64(case.x64):
        step = frozen_step(case, patterns, stage)
        params, batch = cases.parameters(step.stage, case.dtype), cases.batch_of(case)
        loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), *batch)
        grads = step.to_canonical(grads)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        expected_loss, expected = cases.reference(
            step.stage, wide, batch, jnp.float64, restart="restart" in case.masks
        )
    errors = relative_errors(grads, step.trained.only(expected))
    errors["loss"] = abs(float(loss) - float(expected_loss)) / abs(float(expected_loss))
    bad = {path: error for path, error in errors.items() if not error <= TOLERANCE[case.x64]}
    assert not bad, f"{len(bad)} of {len(errors)} differ: {bad}"


@pytest.mark.parametrize(
    "patterns, case",
    [
        pytest.param(*values, marks=[] if name in EVERY_DAY else pytest.mark.slow)
        for name, values in CASES.items()
    ],
    ids=CASES,
)
def test_gradients_of_what_trains_are_exact(patterns, case):
    check_trained(case, patterns)


def halves_of(patterns, *, recompute="selective"):
    """The program of a case that is split, and its halves of a layer."""
    step = frozen_step(
        Case(P=2, M=2, C=2, schedule="seq-zb-h1", recompute=recompute, x64=False), patterns
    )
    program = step.program(1)
    return program, program.layer_splits[0]


@pytest.mark.parametrize("recompute", ["selective", pytest.param("full", marks=pytest.mark.slow)])
def test_frozen_weights_have_no_matmul(recompute):
    """Of the compiled actions; what trains costs 2 FLOPs per token and weight."""
    whole, frozen, part = (
        actions(program_of("llama", recompute, patterns)) for patterns in (None, NORMS, MLP)
    )
    again = whole[1] + whole[2] - whole[0]  # of the forward, by both halves
    matrices = 3 * 32 * (32 + 96)
    assert whole[0] - frozen[0] == 2 * TOKENS * matrices - again, again
    assert frozen[2] == 0 and frozen[1] == frozen[0]
    assert part[2] == 2 * TOKENS * 3 * 32 * 96


def test_nothing_is_deferred_where_nothing_trains():
    program, split = halves_of(NORMS)
    assert split.entries == {} and program.deferred_shapes().device == {}


def test_residuals_of_frozen_weights_are_not_kept():
    def kept(patterns) -> list[tuple[int, ...]]:
        program, _ = halves_of(patterns, recompute="none")
        return sorted(entry.shape for entry in program.residual_plans[0].entries)

    whole, frozen = kept(None), kept(("last.*",))
    for shape in frozen:
        whole.remove(shape)
    assert whole == [(1, 8, 16), (1, 8, 16), (1, 8, 24)]  # both norms' outputs, the MLP's product


def test_frozen_leaves_have_no_accumulator_and_no_optimizer_state():
    step = frozen_step(Case(P=2, M=2, C=2, x64=False), ("last.*", "head"))
    program = step.program(1)
    grads = gradient_shapes(program)
    assert [leaf.shape for leaf in jax.tree.leaves(grads)] == [(16,), (19, 16)]
    assert state_shapes(program).grads == grads
    optimizer = optax.adam(1e-3)
    moments = step.init_optimizer(optimizer, step.init(jax.random.key(0)))[0].mu
    assert moments.embedding is None and moments.head.shape == (2, 10, 16)
    assert jax.tree.leaves(moments.layers) == []


def test_frozen_leaves_stay_bit_by_bit():
    case = Case(P=2, M=2, C=2, x64=False)
    step, optimizer = frozen_step(case, MLP), optax.adamw(1e-2, weight_decay=0.1)
    before = step.to_canonical(step.init(jax.random.key(0)))
    state = init_state(step, optimizer, step.from_canonical(before))
    state, _ = make_train_step(step, optimizer)(state, *cases.batch_of(case))
    after = step.to_canonical(state.params)
    own, frozen = step.trained.split(jax.tree.map(np.array_equal, before, after))
    assert all(jax.tree.leaves(frozen)) and not any(jax.tree.leaves(own))


def test_a_split_tree_is_merged_again():
    params = {"mlp": {"up": 1, "down": 2}, "norm": 3}
    trained = find_trained(build_stage("llama", preset="tiny"), ("layers.mlp.up.*",))
    trained = replace(trained, names=frozenset({"layers.mlp.up"}))
    own, frozen = trained.split(params, "layers")
    assert own == {"mlp": {"up": 1, "down": None}, "norm": None}
    assert merged(own, frozen) == params


@pytest.mark.parametrize(
    ("patterns", "told"),
    [
        (("layers.mpl.*",), "train.trainable=layers.mpl.\\* fits no leaf of the model; the leaves"),
        (("head", "first.*"), "train.trainable=first.\\* fits no leaf"),
        ((), "names nothing that trains"),
    ],
)
def test_patterns_that_name_nothing_are_refused(patterns, told):
    stage = build_stage("llama", preset="tiny")
    assert "layers.attention.query.kernel" in leaf_names(stage)
    with pytest.raises(ValueError, match=told):
        find_trained(stage, patterns)
