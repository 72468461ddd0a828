"""The public step: evaluation, placement, gradients that are sums over tokens, and its errors."""

from dataclasses import replace
from functools import partial
from typing import get_args, get_type_hints

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seq1f1b_jax.config import ExecutorConfig
from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_layout, make_mesh
from seq1f1b_jax.pipeline.params.rows import from_pipeline, to_pipeline
from seq1f1b_jax.schedule import PlanError, make_plan
from seq1f1b_jax.schedule.memory.layers import is_unrolled
from seq1f1b_jax.schedule.simulation.flops import RECOMPUTE_POLICIES
from seq1f1b_jax.schedule.simulation.layers import even_layers
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.cut_stage import CutStage
from tests.pipeline.errors import relative_errors
from tests.pipeline.own_stage import OwnStage

EVALUATIONS = [
    Case(P=1, C=2),
    Case(P=3, M=2, C=3, lengths="odd", layers="unequal", tied=True),
    Case(P=2, V=2, M=3, C=2, lengths="odd", layers="unequal", schedule="seq1f1b-i"),
]


@pytest.mark.parametrize("case", EVALUATIONS, ids=lambda case: case.id)
def test_evaluation_equals_the_reference(x64, case):
    step = cases.build(case)
    params = cases.parameters(step.stage, case.dtype)
    batch = cases.batch_of(case)
    loss = jax.jit(step.loss)(step.from_canonical(params), *batch)
    expected = reference_loss(step.stage, params, *batch, compute_dtype=case.dtype)
    assert abs(float(loss) / float(expected) - 1) <= 1e-12


def test_bfloat16_is_as_near_to_float32_as_plain_bfloat16_autodiff():
    """No leaf may be more than twice as far from the float32 gradients as plain autodiff is."""
    case = Case(P=2, M=2, C=2, lengths="odd", recompute="none", x64=False)
    step = cases.build(case)
    step = replace(step, options=replace(step.options, compute_dtype=jnp.bfloat16))
    params = cases.parameters(step.stage, jnp.float32)
    batch = cases.batch_of(case)
    _, exact = cases.reference(step.stage, params, batch, jnp.float32)
    _, plain = cases.reference(step.stage, params, batch, jnp.bfloat16)
    _, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), *batch)
    ours = relative_errors(step.to_canonical(grads), exact)
    allowed = relative_errors(plain, exact)
    assert max(allowed.values()) > 1e-3  # bfloat16 was really used
    assert {name: e for name, e in ours.items() if e > 2 * allowed[name] + 2**-8} == {}


def test_a_configuration_and_the_executor_name_the_same_policies():
    assert get_args(get_type_hints(ExecutorConfig)["recompute"]) == RECOMPUTE_POLICIES


OPTIMIZERS = {
    "adafactor": partial(optax.adafactor, 0.01, min_dim_size_to_factor=2),
    "novograd": partial(optax.novograd, 0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("data, tensor", [(1, 1), (2, 2)])
def test_a_state_in_other_shapes_than_its_parameters_is_on_the_mesh(make, data, tensor):
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=1, num_chunks=1)
    mesh = make_mesh(2, num_data=data, num_tensor=tensor)
    step = build_step(CutStage(), plan, mesh, chunk_lengths=(4,))
    params, optimizer = step.init(jax.random.key(0)), make()
    state = step.init_optimizer(optimizer, params)
    _, after = jax.jit(optimizer.update)(params, state, params)
    chex.assert_trees_all_equal_shapes(state, after)
    for leaf in jax.tree.leaves(state):
        assert len(leaf.sharding.device_set) == 2 * data * tensor


def test_a_sequence_longer_than_the_positions_that_a_stage_has_learned_is_refused():
    class Short(OwnStage):
        max_positions = 8

    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=1, num_chunks=2)
    build_step(Short(), plan, make_mesh(1), chunk_lengths=(4, 4))
    with pytest.raises(ValueError, match=r"9 tokens.*Short.max_positions=8"):
        build_step(Short(), plan, make_mesh(1), chunk_lengths=(4, 5))


def test_a_custom_stage_trains():
    stage = OwnStage()
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
    options = ExecutorOptions(recompute="none")
    step = build_step(stage, plan, make_mesh(2), chunk_lengths=(9, 7), options=options)
    canonical = stage.init(jax.random.key(0))
    params = step.from_canonical(canonical)
    tokens = jax.random.randint(jax.random.key(1), (2, 2, 17), 0, stage.vocab_size)
    batch = tokens[..., :-1], tokens[..., 1:]
    loss_and_grads = jax.jit(step.loss_and_grads)
    losses = []
    for _ in range(30):
        loss, grads = loss_and_grads(params, *batch)
        losses.append(float(loss))
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grads)
    expected = reference_loss(stage, canonical, *batch)
    assert losses[0] == pytest.approx(float(expected), rel=1e-5)
    assert losses[-1] < 0.7 * losses[0]


def test_own_stage_is_short():
    import inspect

    from tests.pipeline import own_stage

    assert len(inspect.getsource(own_stage).splitlines()) < 60


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 3, 2), (6,)], ids=str)
def test_layout_round_trip(counts):
    stage = OwnStage(num_layers=6)
    layout = make_layout(6, len(counts), vocab_size=11, tied=False, layers_per_stage=counts)
    params = jax.tree.map(np.asarray, stage.init(jax.random.key(0)))
    staged = to_pipeline(params, layout)
    assert staged.layers["q"].shape[:2] == (len(counts), max(counts))
    assert staged.embedding.shape == (len(counts), -(-11 // len(counts)), 8)
    chex.assert_trees_all_equal(from_pipeline(staged, layout), params, strict=True)


def test_the_step_compiles_once_and_ignored_targets_only_give_zero():
    case = Case(P=2, M=2, C=2, x64=False)
    step = cases.build(case)
    params = step.from_canonical(cases.parameters(step.stage, jnp.float32))
    tokens, targets, _ = cases.batch_of(case)
    function = jax.jit(step.loss_and_grads)
    for _ in range(3):
        loss, grads = function(params, tokens, targets)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert float(loss) > 0
    loss, grads = function(params, tokens, jnp.full_like(targets, -1))
    assert float(loss) == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(step.to_canonical(grads)))
    assert function._cache_size() == 1


PLAN = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
RING = make_plan("1f1b-i", num_ranks=2, num_microbatches=2, num_chunks=1)
ERRORS = {
    "more stages than devices": (lambda: make_mesh(99), "99 pipeline stages.*8 are present"),
    "plan and mesh differ": (
        lambda: build_step(OwnStage(), PLAN, make_mesh(3), chunk_lengths=(4, 4)),
        "plan has 2 stages.*'pipe': 3",
    ),
    "fewer layers than stages": (
        lambda: build_step(OwnStage(num_layers=1), PLAN, make_mesh(2), chunk_lengths=(4, 4)),
        "num_layers=1 is fewer than the 2 stages",
    ),
    "layers that do not add up": (
        lambda: build_step(
            OwnStage(), PLAN, make_mesh(2), chunk_lengths=(4, 4), layers_per_stage=(1, 1)
        ),
        r"\[1, 1\].*num_layers=3.*sum to 2",
    ),
    "unknown residual policy": (
        lambda: ExecutorOptions(recompute="some"),
        "recompute='some'.*none, selective, matmuls, full",
    ),
    "a number of layers below zero": (
        lambda: ExecutorOptions(unroll=-1), "unroll=-1 is no number of layers.*'auto'"
    ),
    "unrolled layers of several stages": (
        lambda: build_step(
            OwnStage(num_layers=4), RING, make_mesh(2), chunk_lengths=(8,),
            options=ExecutorOptions(unroll=8),
        ),
        "unroll=8 with 2 stages on a rank.*unroll=0",
    ),
    "unknown attention": (
        lambda: build_step(
            OwnStage(), PLAN, make_mesh(2), chunk_lengths=(4, 4), options=ExecutorOptions("fast")
        ),
        "attention='fast'.*xla_dense, xla_blockwise",
    ),
}


@pytest.mark.parametrize(("build", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_error(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_auto_unrolls_small_stages_on_gpus():
    def unrolled(num_layers, platform="gpu", stages_per_rank=1):
        return is_unrolled(
            "auto", max_layers=max(even_layers(num_layers, 2 * stages_per_rank)), num_chunks=4,
            stages_per_rank=stages_per_rank, platform=platform,
        )

    assert unrolled(16) and not unrolled(17)  # 8 and 9 layers in the larger stage
    assert not unrolled(2, "cpu") and not unrolled(4, stages_per_rank=2)
    assert not build_step(OwnStage(), PLAN, make_mesh(2), chunk_lengths=(4, 4)).unrolled


def test_too_few_chunk_lengths_are_refused():
    with pytest.raises((PlanError, ValueError), match="2 chunks|num_chunks=2|chunk"):
        build_step(OwnStage(), PLAN, make_mesh(2), chunk_lengths=(4, 4, 4))


@pytest.fixture(scope="module")
def own():
    """A step of a model of one's own, and its parameters."""
    step = build_step(OwnStage(), PLAN, make_mesh(2), chunk_lengths=(4, 4))
    return step, step.init(jax.random.key(0))


def test_tokens_of_another_length_are_refused(own):
    step, params = own
    tokens = jnp.zeros((2, 1, 9), jnp.int32)
    with pytest.raises(ValueError, match=r"\(2, 1, 9\).*8\].*\(4, 4\)"):
        step.loss_and_grads(params, tokens, tokens)


def test_targets_of_another_shape_are_refused(own):
    step, params = own
    tokens, targets = jnp.zeros((2, 1, 8), jnp.int32), jnp.zeros((2, 1, 7), jnp.int32)
    with pytest.raises(ValueError, match=r"targets of shape \(2, 1, 7\).*\(2, 1, 8\)"):
        step.loss(params, tokens, targets)


def test_another_number_of_microbatches_is_refused(own):
    step, params = own
    tokens = jnp.zeros((3, 1, 8), jnp.int32)
    with pytest.raises(ValueError, match=r"3 microbatches.*plan.*2"):
        step.loss_and_grads(params, tokens, tokens)


def test_mixed_tokens_show_in_what_a_backward_stores_where_the_check_is_passed_by(own):
    class Mixing(OwnStage):
        def post(self, layer, x, attended):
            mixed = x.mean(axis=1, keepdims=True)
            return super().post(layer, x, attended) + jnp.square(mixed)

    step = replace(own[0], stage=Mixing(), options=ExecutorOptions(recompute="none"))
    tokens = jnp.zeros((2, 1, 8), jnp.int32)
    with pytest.raises(ValueError, match="token-wise"):
        jax.jit(step.loss_and_grads).lower(own[1], tokens, tokens)
