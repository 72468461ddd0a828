"""Optimizers over stacked leaves, and the learning rate of every step."""

from seq1f1b_jax.training.optimizer.build import make_optimizer
from seq1f1b_jax.training.optimizer.rates import describe_change, learning_rate_schedule

__all__ = ["describe_change", "learning_rate_schedule", "make_optimizer"]
