"""`executor.offload` in a line: what waits in host memory, and what the copies cost."""

from typing import NamedTuple

from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.memory import copied_bytes, predict_memory
from seq1f1b_jax.training.setup import Setup


class Speed(NamedTuple):
    """What a device reaches; assumed, not measured.

    Attributes:
      link: bytes per second to the host, one way, while the other way is busy too.
      compute: FLOP/s of matmuls and attention in bfloat16.
    """

    link: float
    compute: float


SPEEDS = {
    "A100": Speed(22e9, 190e12),
    "H100": Speed(45e9, 500e12),
    "H200": Speed(45e9, 500e12),
    "B200": Speed(50e9, 1200e12),
}
"""By a word of the device's name: PCIe 4 and 5, 16 lanes, at some 80 % of their rate."""


def describe_offload(setup: Setup, program: Program) -> str:
    """Layers and bytes in host memory; the copies of the longest chunk beside its computation."""
    layers, num_layers = program.num_host_layers, program.layout.max_layers
    out, back = (layers * size for size in copied_bytes(program))
    text = (
        f"{layers} of {num_layers} layers of a stage wait in host memory, "
        f"{size_text(predict_memory(program).host)} for each device; the longest chunk copies "
        f"{size_text(out)} out and {size_text(back)} back"
    )
    speed = speed_of(setup.mesh.devices.flat[0].device_kind)
    if speed is None:
        return text
    chunk = program.lengths.index(max(program.lengths))
    where = dict(start=program.offsets[chunk], length=program.lengths[chunk])
    stage = program.layout.layers_per_stage.index(num_layers)
    forward, backward = (
        1e3 * cost(stage, **where) / program.tensor.size / speed.compute
        for cost in (setup.cost.forward, setup.cost.backward)
    )
    return (
        f"{text}, {1e3 * out / speed.link:.0f} and {1e3 * back / speed.link:.0f} ms at "
        f"{speed.link / 1e9:.0f} GB/s beside {forward:.0f} ms of F and {backward:.0f} ms of B at "
        f"{speed.compute / 1e12:.0f} TFLOP/s (assumed)"
    )


def speed_of(device_kind: str) -> Speed | None:
    """What is assumed of a device; `None`: it is not known.

    Example:
      >>> speed_of("NVIDIA H100 80GB HBM3").link
      45000000000.0
      >>> speed_of("cpu") is None
      True
    """
    return next((SPEEDS[word] for word in device_kind.split() if word in SPEEDS), None)
