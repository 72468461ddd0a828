"""Tables of learned positions: cut by rows at rest, whole on the first stage, free of topology."""

from dataclasses import dataclass, replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.memory import nbytes, predict_memory
from seq1f1b_jax.pipeline.params.rows import put_tree
from seq1f1b_jax.schedule import make_plan
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, open_state
from tests.pipeline import cases
from tests.pipeline.cut_stage import CutStage
from tests.pipeline.errors import relative_errors
from tests.pipeline.unusual_stages import Declared

ROWS = 1000
SIZES = dict(num_layers=3, max_positions=ROWS, **cases.SIZES)


@dataclass(frozen=True)
class DeclaredCut(CutStage):
    """Layers are cut, and a table of positions in a tree with other leaves."""

    max_positions = Declared.max_positions
    position_tables = Declared.position_tables
    embed = Declared.embed

    def init(self, key):
        return super().init(key)._replace(first=Declared.init(Declared(), key).first)


def build(stage, num_ranks=2, num_tensor=1, **options):
    plan = make_plan("seq1f1b", num_ranks=num_ranks, num_microbatches=2, num_chunks=2)
    mesh = make_mesh(num_ranks, num_tensor=num_tensor)
    options = ExecutorOptions(sequence_parallel=num_tensor > 1, **options)
    return build_step(stage, plan, mesh, chunk_lengths=(8, 8), options=options)


def test_a_custom_model_with_a_table_is_exact(x64):
    """Its table of 128 rows is narrower than the model, and longer than the sequence."""
    step = build(DeclaredCut(num_layers=2), num_tensor=2, compute_dtype=jnp.float64)
    assert step.layout.position_tables == (("first.place.narrow", 128),)
    params = cases.parameters(step.stage, jnp.float64)
    batch = jax.random.randint(jax.random.key(0), (2, 2, 1, 16), 0, 11, jnp.int32)
    loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), *batch)
    expected_loss, expected = cases.reference(step.stage, params, (*batch, None), jnp.float64)
    errors = relative_errors(step.to_canonical(grads), expected)
    assert abs(float(loss - expected_loss)) <= 1e-10
    assert {name: error for name, error in errors.items() if not error <= 1e-10} == {}


def test_a_device_keeps_its_rows_and_uses_those_of_its_part():
    step = build(build_stage("gpt", **SIZES), num_ranks=3, num_tensor=2)
    table = step.abstract_params().first["table"]
    assert table.shape == (3, 2 * 167, 16)  # 1000 rows on six devices, padded to 1002
    assert table.sharding.shard_shape(table.shape) == (1, 167, 16)
    assert step.program(1).table_shapes["first.table"].shape == (3 * 167, 16)
    whole = build(build_stage("gpt", **SIZES), num_ranks=1)
    assert whole.program(1).table_shapes["first.table"].shape == (ROWS, 16)


def test_the_prediction_counts_the_table_where_it_is_used():
    rows = 3 * 167 * 16
    kinds = {"learned": {}, "rotary": {"positions": "rotary"}}
    found = {
        name: predict_memory(build(build_stage("gpt", **SIZES, **kind), 3, 2).program(1))
        for name, kind in kinds.items()
    }
    assert found["learned"].accumulators - found["rotary"].accumulators == 4 * rows
    assert found["learned"].weights - found["rotary"].weights == 4 * rows
    assert found["learned"].ring == found["rotary"].ring


@pytest.mark.parametrize("saved", ["whole, as before", "cut"])
def test_a_checkpoint_continues_on_another_mesh(saved, tmp_path):
    stage = build_stage("gpt", **SIZES)
    params = jax.tree.map(np.asarray, cases.parameters(stage, jnp.float32))
    first, second = build(stage, num_ranks=2, num_tensor=2), build(stage, num_ranks=1)
    third = build(stage, num_ranks=2)
    layout, state = first.layout, first.from_canonical(params)
    if saved != "cut":  # what a version wrote that knew no such tables
        layout = replace(layout, position_tables=())
        state = state._replace(first=jax.tree.map(jnp.asarray, params.first))
    like = jax.eval_shape(stage.init, jax.random.key(0))
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(1, state, meta={}, like=like, layout=layout)
    checkpoint = find_checkpoint(tmp_path)
    assert ("first.table" in checkpoint.kinds) == (saved == "cut")
    rows = open_state(checkpoint, like)
    some = rows.first["table"].open()(498, 505)  # of two ranks
    np.testing.assert_array_equal(some, params.first["table"][498:505])
    for step in (second, third):
        shardings = jax.tree.map(lambda leaf: leaf.sharding, step.abstract_params())
        again = step.to_canonical(put_tree(rows, shardings, step.layout))
        chex.assert_trees_all_equal(again, params, strict=True)


def test_moments_are_cut_as_their_table():

    step = build(build_stage("gpt", **SIZES), num_ranks=2, num_tensor=2)
    params = step.from_canonical(cases.parameters(step.stage, jnp.float32))
    moments = step.init_optimizer(optax.adam(1e-3), params)[0].mu.first["table"]
    assert moments.sharding == params.first["table"].sharding
    assert nbytes(moments.addressable_shards[0].data) == ROWS // 4 * 16 * 4
