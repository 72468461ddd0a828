"""Held-out loss by position: sums, counts and bins, against the batch laid out by hand."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from seq1f1b_jax.config import Config, DataConfig, ScheduleConfig
from seq1f1b_jax.data import Batch
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.training.commands import position_rows
from seq1f1b_jax.training.evaluation import HeldOut, make_evaluation


def evaluation_of(losses):
    pipeline = SimpleNamespace(token_losses=lambda params, *batch: jnp.asarray(losses))
    config = Config(data=DataConfig(microbatch_size=2, seq_len=4), schedule=ScheduleConfig(num_microbatches=1))
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
