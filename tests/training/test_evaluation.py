"""Held-out loss: by position against a batch laid out by hand, and the same in every shape."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.config import Config, DataConfig, MeshConfig, ScheduleConfig
from seq1f1b_jax.data import Batch, Corpus, make_data
from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.training.commands import position_rows
from seq1f1b_jax.training.evaluation import (
    HeldOut,
    bigram_loss,
    held_out_batches,
    make_evaluation,
)
from seq1f1b_jax.training.setup import make_setup


def evaluation_of(losses):
    pipeline = SimpleNamespace(token_losses=lambda params, *batch: jnp.asarray(losses))
    data = DataConfig(microbatch_size=2, seq_len=4)
    config = Config(data=data, schedule=ScheduleConfig(num_microbatches=1))
    return make_evaluation(SimpleNamespace(pipeline=pipeline, config=config, mesh=make_mesh(1)))


def test_positions_count_from_the_first_token_of_a_document():
    tokens = np.zeros((1, 2, 4), np.int32)
    targets = np.array([[[1, 1, 1, -1], [1, -1, 1, -1]]], np.int32)
    starts = np.array([[[0, 0, 0, 0], [0, 0, 2, 2]]], np.int32)
    losses = np.array([[[4.0, 3.0, 2.0, 0.0], [6.0, 0.0, 8.0, 0.0]]], np.float32)
    evaluate = evaluation_of(losses)
    held_out = evaluate(None, [Batch(tokens, targets, starts)] * 2)
    assert held_out.losses.tolist() == [36.0, 6.0, 4.0, 0.0]
    assert held_out.counts.tolist() == [6, 2, 2, 0]
    assert held_out.mean == 46 / 10
    plain = evaluate(None, [Batch(tokens, targets)])
    assert plain.losses.tolist() == [10.0, 3.0, 10.0, 0.0]
    assert plain.mean == 23 / 5


def test_every_bin_is_twice_as_long_and_none_is_empty():
    counts = np.ones(300, int)
    counts[64:128] = 0
    held_out = HeldOut(np.arange(300) * counts, counts)
    assert list(held_out.by_position()) == [
        (0, 64, np.arange(64).mean()),
        (128, 256, np.arange(128, 256).mean()),
        (256, 300, np.arange(256, 300).mean()),
    ]


def test_bars_are_as_long_as_the_loss():
    rows = position_rows(HeldOut(np.r_[np.full(64, 3.0), np.full(64, 1.5)], np.ones(128, int)))
    assert [row.count("#") for row in rows] == [40, 20]
    assert rows[1].startswith("   64 ... 127   1.5000")


def test_nothing_held_out_has_loss_zero_and_no_rows():
    nothing = HeldOut(np.zeros(4), np.zeros(4, int))
    assert nothing.mean == 0 and position_rows(nothing) == []


SEQ_LEN, ASKED = 24, 7


def setup_of(num_microbatches, microbatch_size, *, data=1, pipe=2):
    """Of a tiny model."""
    config = Config(
        mesh=MeshConfig(pipe=pipe, data=data),
        data=DataConfig(seq_len=SEQ_LEN, microbatch_size=microbatch_size, packing="documents"),
        schedule=ScheduleConfig(num_microbatches=num_microbatches, num_chunks=2, block=8),
    )
    return make_setup(config, build_stage("llama", preset="tiny"))


@pytest.fixture(scope="module")
def documents():
    """Packed documents, some of one token, with at least 9 sequences held out."""
    draw = np.random.default_rng(0)
    ends = np.concatenate([[0], np.cumsum(draw.integers(1, 40, 200))])
    tokens = draw.integers(0, 64, ends[-1]).astype(np.uint32)
    corpus = Corpus(tokens, 64, "prepared", "0", 1, ends)
    data = make_data(corpus, seq_len=SEQ_LEN, eval_fraction=0.2, seed=0, packing="documents")
    assert data.split.held_out.size > ASKED + 2
    return data


def test_the_same_sequences_give_the_same_loss_in_every_shape_of_a_step(documents):
    shapes = {
        "3 x 1": setup_of(3, 1), "2 x 2, two pipelines": setup_of(2, 2, data=2),
        "1 x 3, one stage": setup_of(1, 3, pipe=1),
    }
    init = build_stage("llama", preset="tiny").init(jax.random.key(0))
    sequences = documents.sequences(documents.split.held_out[:ASKED])
    plain = reference_loss(
        build_stage("llama", preset="tiny"), init, *(part[None] for part in sequences),
        restart_positions=True,
    )
    found = {}
    for name, setup in shapes.items():
        batches = held_out_batches(setup, documents, ASKED)
        found[name] = make_evaluation(setup)(setup.pipeline.from_canonical(init), batches)
        assert found[name].counts.sum() == (sequences.targets >= 0).sum()
        assert found[name].mean == pytest.approx(float(plain), rel=1e-6)  # float32
        assert bigram_loss(documents, batches) == bigram_loss(documents, [sequences])
    # one sequence on a device at a time in both, so equal to the last bit
    equal = found["3 x 1"].losses, found["2 x 2, two pipelines"].losses
    np.testing.assert_array_equal(*equal)
