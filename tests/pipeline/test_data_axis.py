"""Several pipelines: the optimizer's cut state against plain Optax, and where collectives stand."""


import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.common.placement import axes_of
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.pipeline.params.sharding import data_dim
from seq1f1b_jax.training.step import init_state, make_train_step
from tests.compiled import compiled
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.errors import relative_errors
from tests.pipeline.hlo import Module

MESHES = [(2, 4), (4, 2), (8, 1)]  # with the axis tensor: test_tensor_axis
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.01, weight_decay=0.1))


def case_of(num_data, num_ranks) -> Case:
    return Case(
        P=num_ranks, D=num_data, M=2, C=2, lengths="odd", layers="unequal", masks="restart",
    )  # fmt: skip


def train_step_of(step):
    return make_train_step(step, OPTIMIZER, learning_rate=lambda step: 0.01)


def compile_train_step(step, case: Case) -> str:
    """The text of the compiled program of a whole optimizer step."""
    state = init_state(step, OPTIMIZER, started(step))
    lowered = train_step_of(step).lower(state, *cases.batch_of(case))
    return compiled(lowered).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("num_data, num_ranks", MESHES)
def test_three_updates_equal_plain_optax(x64, num_data, num_ranks):
    check_updates(case_of(num_data, num_ranks))


def check_updates(case: Case) -> None:
    """Three steps on the case's mesh against plain Optax on whole parameters."""
    step = cases.build(case)
    params = cases.parameters(step.stage, case.dtype)
    batch = cases.batch_of(case)
    state = init_state(step, OPTIMIZER, step.from_canonical(params))
    train_step = train_step_of(step)
    moments = OPTIMIZER.init(params)
    for _ in range(3):
        state, _ = train_step(state, *batch)
        _, grads = cases.reference(step.stage, params, batch, case.dtype, restart=True)
        updates, moments = OPTIMIZER.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
    errors = relative_errors(step.to_canonical(state.params), params)
    assert {name: e for name, e in errors.items() if not e <= 1e-9} == {}  # after a division


def started(step):
    return step.from_canonical(cases.parameters(step.stage, jnp.float32))


def test_each_pipeline_keeps_its_part_of_the_moments():
    case = case_of(4, 2)._replace(x64=False)
    step = cases.build(case)
    state = init_state(step, OPTIMIZER, started(step))
    adam = state.optimizer[1][0]
    whole, kept = 0, 0
    for leaf, param in zip(jax.tree.leaves(adam.mu), jax.tree.leaves(state.params), strict=True):
        whole += param.addressable_shards[0].data.size
        kept += leaf.addressable_shards[0].data.size
        assert leaf.shape == param.shape
    assert kept <= 0.3 * whole  # a quarter, but for what four does not divide
    back = step.to_canonical(state.params)
    chex.assert_trees_all_equal(step.to_canonical(step.from_canonical(back)), back)
    again = step.from_canonical(step.to_canonical(adam.mu), over_data=True)
    assert jax.tree.leaves(again)[0].sharding == jax.tree.leaves(adam.mu)[0].sharding


def collectives(module: Module, computation: str, mesh) -> list[str]:
    """Opcodes with the axes of their groups of devices."""
    found = []
    for instruction in module.computations[computation]:
        name = instruction.opcode.removesuffix("-start")
        if name in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all"):
            found.append(f"{name} {axes_of(instruction.rest, dict(mesh.shape))}")
    return found


def test_nothing_crosses_pipelines_inside_the_loop():
    case = case_of(2, 4)._replace(x64=False)
    step = cases.build(case)
    module = Module(compile_train_step(step, case))
    inside = [
        name for c in module.reachable(module.scan_body())
        for name in collectives(module, c, step.mesh)
    ]  # fmt: skip
    assert inside == []
    outside = collectives(module, module.entry, step.mesh)
    assert "all-gather data" in outside  # of the updated parameters
    assert {"reduce-scatter data", "all-reduce data"} & set(outside)  # of the gradients


def test_the_mesh_keeps_neighbouring_stages_on_neighbouring_devices():
    mesh = make_mesh(4, num_data=2)
    assert dict(mesh.shape) == {"data": 2, "pipe": 4}
    assert [[d.id for d in row] for row in mesh.devices] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert dict(make_mesh(4).shape) == {"pipe": 4}
    with pytest.raises(ValueError, match="4 pipeline stages in 3 pipelines .* 8 are present"):
        make_mesh(4, num_data=3)


def test_a_microbatch_that_cannot_be_spread_is_refused():
    step = cases.build(case_of(2, 2)._replace(x64=False))
    tokens = jnp.zeros((2, 3, sum(step.table.chunk_lengths)), jnp.int32)
    with pytest.raises(ValueError, match="3 sequences .* 2 pipelines .* multiple of 2"):
        jax.eval_shape(step.loss_and_grads, step.abstract_params(), tokens, tokens)


@pytest.mark.parametrize(
    "shape, taken, num_data, dim",
    [((1, 4, 6), (0,), 2, 1), ((1, 3, 6), (0,), 2, 2), ((1, 3, 5), (0,), 2, None),
     ((1, 4, 6), (0, 1), 2, 2), ((4,), (), 1, None), ((), (), 2, None)],
)  # fmt: skip
def test_the_first_free_dim_that_divides_is_cut(shape, taken, num_data, dim):
    assert data_dim(shape, taken=taken, num_data=num_data) == dim
