"""Layers sharded over devices: exact on every mesh, collectives counted, bad input refused."""

from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.params.layout import tensor_dims_of
from seq1f1b_jax.schedule import SCHEDULES, make_plan
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.cut_stage import CutStage
from tests.pipeline.errors import relative_errors
from tests.pipeline.hlo import Module
from tests.pipeline.own_stage import OwnStage
from tests.pipeline.test_data_axis import check_updates, collectives, compile_train_step
from tests.pipeline.test_exact import check

MESHES = [(2, 2, 2), (1, 4, 2), (2, 4, 1), (1, 2, 4), (8, 1, 1)]
WHOLE = {schedule.chunked_name: name for name, schedule in SCHEDULES.items()}
CHUNKED = [name for name, schedule in SCHEDULES.items() if not schedule.chunked_name]


def case_of(mesh, schedule: str = "seq1f1b", **changes) -> Case:
    data, pipe, tensor = mesh
    case = Case(
        D=data, P=pipe, T=tensor, V=2 if schedule.endswith("-i") else 1, M=3, C=2,
        lengths="balanced", sequence=tensor > 1, schedule=schedule, masks="restart",
    )  # fmt: skip
    return case._replace(**changes)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("schedule", CHUNKED)
def test_every_schedule_is_exact_on_every_mesh(mesh, schedule):
    check(case_of(mesh, schedule))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES, ids=str)
@pytest.mark.parametrize("schedule", [name for name in CHUNKED if name in WHOLE])
def test_every_schedule_of_whole_sequences_is_exact_on_every_mesh(mesh, schedule):
    check(case_of(mesh, schedule, C=1, lengths="even"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 2, 2), (1, 2, 4)])
def test_three_updates_equal_plain_optax(x64, mesh):
    check_updates(case_of(mesh, tied=True, layers="unequal"))


def test_a_device_holds_its_part_of_every_matmul_and_table():
    stage = build_stage("llama", num_layers=2, **cases.SIZES)
    dims = tensor_dims_of(stage, stage.shard(TensorAxis(2)))
    names = {name.split("'")[-4] + "." + name.split("'")[-2]: dim for name, dim in dims.items()}
    columns, rows = ("query", "key", "value", "gate", "up"), ("output", "down")
    assert names == {f"{n}.kernel": 1 for n in columns} | {f"{n}.kernel": 0 for n in rows}
    step = cases.build(case_of((1, 2, 2), x64=False))
    params = step.from_canonical(cases.parameters(step.stage, jnp.float32))
    table = params.embedding.addressable_shards[0].data
    assert table.shape == (1, 5, 16)  # a quarter of 19 rows
    kernel = params.layers["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    canonical = step.to_canonical(params)
    again = step.to_canonical(step.from_canonical(canonical))
    chex.assert_trees_all_equal(again, canonical)


@pytest.mark.slow
def test_collectives_stand_where_they_belong():
    """Between two devices of a stage only, and no more than the design says."""
    case = case_of((2, 2, 2), x64=False, layers="equal")
    counts = {}
    for sequence in (False, True):
        step = cases.build(case._replace(sequence=sequence))
        module = Module(compile_train_step(step, case))
        inside = [c for name in module.reachable(module.scan_body())
                  for c in collectives(module, name, step.mesh)]  # fmt: skip
        assert {name.split()[1] for name in inside} == {"tensor"}, "only devices of one stage"
        counts[sequence] = Counter(name.split()[0] for name in inside)
    # In each tick, C=2: per F 2 sums in a layer, 1 of embedded rows, 3 of the loss; per B 2 sums
    # in a layer. That of the last matmul is not made again.
    assert counts[False] == {"all-reduce": 2 * 2 * (2 + 1 + 3 + 2)}
    # Gathered: F 2 in a layer, 1 for the loss; B 2 made again, 2 transposes, 1 for the embedding
    assert counts[True]["all-gather"] == 2 * 2 * (2 + 1 + 4 + 1)


BAD_MODELS = {
    "query heads": (3, {}, "4 heads and an MLP of width 24 cannot be sharded over tensor=3"),
    "key/value heads": (
        4, dict(num_heads=12, num_kv_heads=6, head_dim=2, model_dim=16), "6 key/value heads"
    ),
}  # fmt: skip


@pytest.mark.parametrize("size, changes, message", BAD_MODELS.values(), ids=BAD_MODELS)
def test_a_model_that_cannot_be_sharded_is_refused(size, changes, message):
    stage = build_stage("llama", num_layers=2, **cases.SIZES | changes)
    with pytest.raises(ValueError, match=message):
        stage.shard(TensorAxis(size))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("schedule", CHUNKED)
def test_halves_are_exact(schedule, recompute):
    check(case_of((1, 2, 4), schedule, lengths="even", recompute=recompute, halves=True))


@pytest.mark.parametrize("sequence", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_custom_model_is_exact(x64, sequence):
    stage = CutStage(num_layers=2)
    step = build_small(stage, sequence_parallel=sequence, compute_dtype=jnp.float64)
    params = cases.parameters(stage, jnp.float64)
    batch = jax.random.randint(jax.random.key(0), (2, 2, 1, 16), 0, stage.vocab_size, jnp.int32)
    loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), *batch)
    expected_loss, expected = cases.reference(stage, params, (*batch, None), jnp.float64)
    errors = relative_errors(step.to_canonical(grads), expected)
    assert abs(float(loss - expected_loss)) <= 1e-10
    assert {name: error for name, error in errors.items() if not error <= 1e-10} == {}


def build_small(stage, *, lengths=(8, 8), num_tensor=2, **options):
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
    mesh = make_mesh(2, num_tensor=num_tensor)
    return build_step(stage, plan, mesh, chunk_lengths=lengths, options=ExecutorOptions(**options))


def test_what_cannot_be_shared_is_refused():
    stage = build_stage("llama", num_layers=2, **cases.SIZES)
    with pytest.raises(ValueError, match=r"chunks of \[7\] tokens .* tensor=2 .* multiple of 2"):
        build_small(stage, lengths=(8, 7), sequence_parallel=True)
    with pytest.raises(ValueError, match=r"chunks of \[6\] tokens .* tensor=2 .* multiple of 4"):
        build_small(stage, lengths=(8, 6), sequence_parallel=True, halves=True)
    with pytest.raises(ValueError, match="halves .* and sequence_parallel is off"):
        build_small(stage, halves=True)
    with pytest.raises(ValueError, match="halves with recompute='none' .*recompute='selective'"):
        build_small(stage, sequence_parallel=True, halves=True, recompute="none")
    with pytest.raises(ValueError, match="sequence_parallel .* the mesh has none"):
        build_small(stage, num_tensor=1, sequence_parallel=True)
    with pytest.raises(ValueError, match="OwnStage has no method shard.* tensor=2"):
        build_small(OwnStage())
    with pytest.raises(ValueError, match="2 pipeline stages of 3 devices in 2 pipelines .* 8 are"):
        make_mesh(2, num_data=2, num_tensor=3)


def test_devices_of_a_stage_belong_to_one_process():
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    devices = [Device(index // 3) for index in range(6)]
    with pytest.raises(ValueError, match=r"tensor=2 .* processes \[0, 1\]"):
        make_mesh(3, devices, num_tensor=2)


def test_the_mesh_keeps_devices_of_a_stage_side_by_side():
    mesh = make_mesh(2, num_data=2, num_tensor=2)
    assert dict(mesh.shape) == {"data": 2, "pipe": 2, "tensor": 2}
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    np.testing.assert_array_equal(ids, np.arange(8).reshape(2, 2, 2))


def test_memory_per_device_falls_with_the_devices_of_a_stage():
    from seq1f1b_jax.pipeline.memory import predict_memory

    stage = build_stage("llama", num_layers=2, **cases.SIZES | dict(mlp_dim=64))
    kinds = {
        "one": build_small(stage, num_tensor=1),
        "two": build_small(stage),
        "two, tokens too": build_small(stage, sequence_parallel=True),
    }
    rings = {name: predict_memory(step.program(1)).ring for name, step in kinds.items()}
    assert rings["one"] > rings["two"] > rings["two, tokens too"]
    assert rings["two, tokens too"] <= 0.51 * rings["one"]
