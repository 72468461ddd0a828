"""Sizes that no memory here can hold, told before anything is allocated."""

import os
from collections.abc import Sequence

import jax

from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.report import size_text

STATE_BYTES = 12
"""Of a parameter: itself and both moments in float32."""


def check_fits(num_params: int, devices: Sequence[jax.Device], *, num_processes: int = 1) -> None:
    """Refuse a model whose parameters and moments alone are more than the memory of this process.

    Args:
      num_params: parameters of the whole model.
      devices: of this process.
      num_processes: that share the parameters.

    Raises:
      UserError: it is too large.

    Example:
      >>> check_fits(1_000_000, jax.local_devices())
      >>> check_fits(10**15, jax.local_devices())  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      seq1f1b_jax.config.UserError: the model has 1,000,000,000,000,000 parameters, ...
    """
    needed, there = STATE_BYTES * num_params / num_processes, memory_of(devices)
    if there is not None and needed > there:
        raise UserError(
            f"the model has {num_params:,} parameters, which with their moments take "
            f"{size_text(needed)}, and there are {size_text(there)} of memory; lower model.* "
            "(num_layers, model_dim, mlp_dim, vocab_size), or use more devices"
        )


def memory_of(devices: Sequence[jax.Device]) -> float | None:
    """Bytes that the devices have, all together; None where the system does not tell."""
    if devices[0].platform == "cpu":
        try:
            return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, ValueError):
            return None
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return None if None in limits else float(sum(limits))
