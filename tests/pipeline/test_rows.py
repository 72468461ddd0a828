"""Leaves some rows at a time: the same values as whole arrays, and no more than asked for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_layout, make_mesh
from seq1f1b_jax.pipeline.params import fresh as fresh_module
from seq1f1b_jax.pipeline.params import rows as rows_module
from seq1f1b_jax.pipeline.params.fresh import fresh
from seq1f1b_jax.pipeline.params.rows import Rows, canonical_rows, shares
from seq1f1b_jax.schedule import make_plan
from tests.pipeline.own_stage import OwnStage

SIZES = dict(model_dim=16, num_heads=4, mlp_dim=24, vocab_size=19, num_layers=6)
FAMILY = {"gpt": dict(max_positions=17), "llama": dict(num_kv_heads=2)}

TOPOLOGIES = {
    "P=1": {},
    "P=2": dict(pipe=2),
    "P=4, unequal layers": dict(pipe=4, layers_per_stage=(1, 2, 1, 2)),
    "P=2, V=2": dict(pipe=2, stages_per_rank=2, layers_per_stage=(2, 1, 2, 1)),
    "P=2, data=2": dict(pipe=2, data=2),
    "P=2, tensor=2": dict(pipe=2, tensor=2),
    "P=2, tensor=2, sequence parallel": dict(pipe=2, tensor=2, sequence_parallel=True),
}


def build(
    stage, *, pipe=1, data=1, tensor=1, stages_per_rank=1, layers_per_stage=None,
    sequence_parallel=False,
):
    name = "seq1f1b-i" if stages_per_rank > 1 else "seq1f1b"
    plan = make_plan(
        name, num_ranks=pipe, num_microbatches=2, num_chunks=2,
        **({"stages_per_rank": stages_per_rank} if stages_per_rank > 1 else {}),
    )
    return build_step(
        stage, plan, make_mesh(pipe, num_data=data, num_tensor=tensor), chunk_lengths=(8, 8),
        layers_per_stage=layers_per_stage,
        options=ExecutorOptions(sequence_parallel=sequence_parallel),
    )


def stage_of(family, *, tied):
    return build_stage(family, tied=tied, **SIZES, **FAMILY[family])


def made_whole(stage, key):
    """All of the model at once, by one program: what every topology must hold, bit by bit."""
    return jax.tree.map(np.asarray, jax.jit(stage.init)(key))


def stacked(tree, layout):
    """The in-memory layout of whole arrays, written down a second time."""

    def stack(path, leaf):
        kind, ranks = layout.kind_of(path), layout.num_ranks
        if kind == "layer":
            shape = (ranks, layout.stages_per_rank, layout.max_layers)
            room = np.zeros((*shape, *leaf.shape[1:]), "f4")
            layers = iter(leaf)
            for stage, count in enumerate(layout.layers_per_stage):
                for place in range(count):
                    room[stage % ranks, stage // ranks, place] = next(layers)
            return rearrange(room, "rank group layer ... -> rank (group layer) ...")
        if kind == "table":
            rows = layout.shard_rows(len(leaf))
            padded = np.zeros((ranks * layout.num_tensor * rows, leaf.shape[1]), "f4")
            padded[: len(leaf)] = leaf
            return rearrange(
                padded, "(part rank row) d -> rank (part row) d", rank=ranks, row=rows
            )
        return leaf

    return jax.tree.map_with_path(stack, tree)


MODELS = [
    ("gpt", True),
    pytest.param("llama", False, marks=pytest.mark.slow),
    pytest.param("gpt", False, marks=pytest.mark.slow),
    pytest.param("llama", True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_every_topology_holds_the_values_of_one_program(family, tied, monkeypatch):
    stage, key = stage_of(family, tied=tied), jax.random.key(7)
    expected = made_whole(stage, key)
    monkeypatch.setattr(fresh_module, "PIECE_BYTES", 1)  # else so small a model is made at once
    rows = fresh(stage, key)
    for name, topology in TOPOLOGIES.items():
        step = build(stage, **topology)
        params = step.from_canonical(rows)  # what `step.init` does, without compiling again
        chex.assert_trees_all_equal(jax.device_get(params), stacked(expected, step.layout))
        chex.assert_trees_all_equal(step.to_canonical(params), expected, strict=True)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.sharding), params)
        wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.sharding), step.abstract_params())
        assert shapes == wanted, name


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_stage_of_ones_own_holds_them_too(tied):
    stage, key = OwnStage(num_layers=3, tied=tied), jax.random.key(7)
    step = build(stage, pipe=2)
    chex.assert_trees_all_equal(step.to_canonical(step.init(key)), made_whole(stage, key))


def test_a_process_asks_for_its_own_rows_only(monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 1)
    asked = []

    def read(start, stop):
        asked.append((start, stop))
        return np.ones((stop - start, 4, 5), np.float32)

    layout = make_layout(6, 4, vocab_size=19, tied=True, layers_per_stage=(1, 2, 1, 2))
    leaf = Rows((6, 4, 5), np.dtype(np.float32), lambda: read)
    everything = slice(None)
    share = shares(leaf, "layer", layout)((slice(1, 2), everything, everything, everything))
    assert asked == [(1, 2), (2, 3)] and share.shape == (1, 2, 4, 5) and share.all()
    del asked[:]
    share = shares(leaf, "layer", layout)((slice(2, 3), slice(0, 2), everything, slice(0, 2)))
    assert asked == [(3, 4)] and share[:, 0].all() and not share[:, 1].any()


def test_rows_are_read_back_from_the_mesh_one_by_one():
    stage, key = stage_of("llama", tied=False), jax.random.key(7)
    step = build(stage, pipe=2, data=2)
    expected = made_whole(stage, key)
    rows = canonical_rows(step.init(key), step.layout)
    kernel = rows.layers["mlp"]["up"]["kernel"]
    assert kernel.shape == expected.layers["mlp"]["up"]["kernel"].shape
    for layer in range(6):
        np.testing.assert_array_equal(kernel[layer], expected.layers["mlp"]["up"]["kernel"][layer])
    np.testing.assert_array_equal(rows.embedding.open()(8, 13), expected.embedding[8:13])


LONG = (dict(pipe=1), dict(tensor=2))
MESHES = [dict(pipe=2), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in LONG)]


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_one_jit_of_gradients_and_update_compiles_once(mesh):
    """Counters of the optimizer lie where an update leaves them, as everything else."""
    step = build(stage_of("llama", tied=False), **mesh)
    adam = optax.adamw(optax.constant_schedule(1e-3))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), adam)
    params = step.init(jax.random.key(0))
    state = step.init_optimizer(optimizer, params)
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.device_set == set(step.mesh.devices.flat)

    @jax.jit
    def train_step(params, state, tokens):
        loss, grads = step.loss_and_grads(params, tokens, tokens)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    tokens = jnp.ones((2, 2, 16), jnp.int32)
    for _ in range(3):
        params, state, loss = train_step(params, state, tokens)
    assert train_step._cache_size() == 1 and np.isfinite(loss)
