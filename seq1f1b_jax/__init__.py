"""Sequence-level one-forward-one-backward pipeline parallelism in JAX."""
