"""What a mesh saved, read some rows at a time, for another mesh and from an older checkpoint."""

import chex
import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import make_layout
from seq1f1b_jax.pipeline.params.rows import to_pipeline
from seq1f1b_jax.training.checkpoint import checkpointer as checkpoint_module
from seq1f1b_jax.training.checkpoint.arrays import open_array
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, open_state
from tests.models.hf_cases import parameters

STAGE = build_stage("gpt", preset="tiny", num_layers=6)
LAYOUT = make_layout(
    6, 2, vocab_size=STAGE.vocab_size, tied=STAGE.tied, stages_per_rank=2,
    layers_per_stage=(2, 1, 2, 1),
)
KERNEL = "layers.mlp.up.kernel"


def whole_arrays(folder, leaves, kinds):
    """As before layers lay apart: every array of a device in one chunk."""
    return ocp.save_async(folder, leaves)


@pytest.fixture(params=["layers apart", "older"])
def saved(request, tmp_path, monkeypatch):
    """Parameters, and the checkpoint of a mesh of two ranks with two stages each."""
    if request.param == "older":
        monkeypatch.setattr(checkpoint_module, "_begin", whole_arrays)
    params = parameters(STAGE)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(3, to_pipeline(params, LAYOUT), meta={}, like=like, layout=LAYOUT)
    return params, find_checkpoint(tmp_path), request.param


def test_every_row_comes_back(saved):
    params, checkpoint, _ = saved
    rows = open_state(checkpoint, params)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, rows), params, strict=True)
    for layer in range(6):
        expected = params.layers["mlp"]["up"]["kernel"][layer]
        np.testing.assert_array_equal(rows.layers["mlp"]["up"]["kernel"][layer], expected)
    for start, stop in ((0, 1), (30, 37), (60, 64)):  # 32 rows on either rank
        np.testing.assert_array_equal(
            rows.embedding.open()(start, stop), params.embedding[start:stop]
        )


def test_a_layer_lies_apart_on_disk(saved):
    params, checkpoint, form = saved
    chunk = open_array(checkpoint.path / "state", KERNEL).chunk_layout.read_chunk.shape
    layer = params.layers["mlp"]["up"]["kernel"].shape[1:]
    assert chunk[1:] == (1 if form == "layers apart" else 4, *layer)
