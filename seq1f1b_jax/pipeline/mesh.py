"""The devices of a run: mesh axes `data`, outermost, `pipe`, and `tensor`, innermost.

The more two devices exchange, the closer they are. Those that share layers exchange activations
four times per layer and unit, and belong to one host; neighbouring ranks exchange two messages per
unit; pipelines communicate once per step. `ops.axes` describes each axis.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from seq1f1b_jax.ops.axes import DATA, PIPE, TENSOR


def make_mesh(
    num_ranks: int | None = None,
    devices: Sequence[Any] | None = None,
    *,
    num_data: int = 1,
    num_tensor: int = 1,
) -> Mesh:
    """A mesh of `num_data` pipelines of `num_ranks` ranks of `num_tensor` devices each.

    Neighbouring ranks are neighbouring devices, and the devices of a rank are side by side. The
    axes `data` and `tensor` exist only where they are larger than one.

    Args:
      num_ranks: of a pipeline; default: as many as the devices give.
      devices: to take them from, in order; default: all.
      num_data: pipelines, each of which works on its part of every microbatch.
      num_tensor: devices that share every layer.

    Raises:
      ValueError: more ranks than devices, a rank on two hosts, or a process without a device.
    """
    devices = jax.devices() if devices is None else list(devices)
    if num_ranks is None:
        num_ranks = max(1, len(devices) // (num_data * num_tensor))
    wanted = num_ranks * num_data * num_tensor
    if not 1 <= wanted <= len(devices):
        shared = f" of {num_tensor} devices" * (num_tensor > 1)
        raise ValueError(
            f"{num_ranks} pipeline stages{shared}{f' in {num_data} pipelines' * (num_data > 1)} "
            f"need as many devices, and {len(devices)} are present; use 1 to "
            f"{len(devices) // (num_data * num_tensor)} stages, or on CPU ask for more virtual "
            "devices"
        )
    unused = {d.process_index for d in devices} - {d.process_index for d in devices[:wanted]}
    if unused:
        raise ValueError(
            f"process {min(unused)} has no device of the mesh, which takes {wanted} of "
            f"{len(devices)}; start fewer processes, or use a larger mesh"
        )
    devices = devices[:wanted]
    _check_hosts(devices, num_tensor)
    axes = {DATA: num_data, PIPE: num_ranks, TENSOR: num_tensor}
    axes = {name: size for name, size in axes.items() if size > 1 or name == PIPE}
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
        devices=devices,
    )


def _check_hosts(devices: Sequence[Any], num_tensor: int) -> None:
    """The devices of a rank belong to one process: they exchange in every layer."""
    for first in range(0, len(devices), num_tensor):
        group = devices[first : first + num_tensor]
        owners = {device.process_index for device in group}
        if len(owners) > 1:
            raise ValueError(
                f"tensor={num_tensor} devices that share a stage would be in the processes "
                f"{sorted(owners)}; use a size that divides the devices of a process"
            )
