"""Held-out loss of a run, over all its sources and of each, beside that of a bigram model."""

from seq1f1b_jax.training.evaluation.bigram import bigram_loss
from seq1f1b_jax.training.evaluation.held_out import Evaluate, HeldOut, make_evaluation
from seq1f1b_jax.training.evaluation.sources import (
    Losses,
    Part,
    bigram_losses,
    evaluate_parts,
    held_out_batches,
    held_out_parts,
)

__all__ = [
    "Evaluate",
    "HeldOut",
    "Losses",
    "Part",
    "bigram_loss",
    "bigram_losses",
    "evaluate_parts",
    "held_out_batches",
    "held_out_parts",
    "make_evaluation",
]
