"""The devices of a pipeline: one mesh axis `pipe`."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from seq1f1b_jax.pipeline.layout import AXIS


def make_mesh(num_stages: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of one axis `pipe` over the first `num_stages` devices (default: all).

    Raises:
      ValueError: more stages than devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    num_stages = len(devices) if num_stages is None else num_stages
    if not 1 <= num_stages <= len(devices):
        raise ValueError(
            f"{num_stages} pipeline stages need as many devices, and {len(devices)} are present; "
            f"use 1 to {len(devices)} stages, or on CPU ask for more virtual devices"
        )
    return jax.make_mesh(
        (num_stages,),
        (AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=devices[:num_stages],
    )
