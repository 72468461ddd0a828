"""The devices of a run: mesh axes `data`, outermost, and `pipe`, neighbours side by side."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from seq1f1b_jax.pipeline.layout import AXIS

DATA = "data"


def make_mesh(
    num_stages: int | None = None, devices: Sequence[Any] | None = None, *, num_data: int = 1
) -> Mesh:
    """A mesh of `num_data` pipelines of `num_stages` devices each.

    Neighbouring stages stand on neighbouring devices. With one pipeline there is one axis, `pipe`.

    Args:
      num_stages: stages of a pipeline; default: as many as the devices give.
      devices: what to take them from, in order; default: all.
      num_data: pipelines, each of which works on its part of every microbatch.

    Raises:
      ValueError: more stages than devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    num_stages = len(devices) // num_data if num_stages is None else num_stages
    wanted = num_stages * num_data
    if not 1 <= wanted <= len(devices):
        raise ValueError(
            f"{num_stages} pipeline stages{f' in {num_data} pipelines' * (num_data > 1)} need as "
            f"many devices, and {len(devices)} are present; use 1 to "
            f"{len(devices) // num_data} stages, or on CPU ask for more virtual devices"
        )
    axes = ({DATA: num_data} if num_data > 1 else {}) | {AXIS: num_stages}
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
        devices=devices[:wanted],
    )


def num_pipelines(mesh: Mesh) -> int:
    """Size of the axis `data`, 1 where there is none."""
    return dict(mesh.shape).get(DATA, 1)
