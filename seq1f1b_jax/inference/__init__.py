"""The model forward: as a reference for the pipeline, with a cache, and sampling from it."""

from seq1f1b_jax.inference.reference import reference_loss

__all__ = ["reference_loss"]
