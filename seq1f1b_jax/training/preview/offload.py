"""`executor.offload` in a line: what waits in host memory, and what the copies cost."""

import numpy as np

from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.memory import copied_bytes, predict_memory
from seq1f1b_jax.plan.hardware import hardware_of
from seq1f1b_jax.plan.work import work_of
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.training.preview.seconds import draft_of_run
from seq1f1b_jax.training.setup import Setup


def describe_offload(setup: Setup, program: Program) -> str:
    """Layers and bytes in host memory; the copies of the longest chunk beside its computation."""
    layers, num_layers = program.num_host_layers, program.layout.max_layers
    out, back = (layers * size for size in copied_bytes(program))
    text = (
        f"{layers} of {num_layers} layers of a stage wait in host memory, "
        f"{size_text(predict_memory(program).host)} for each device; the longest chunk copies "
        f"{size_text(out)} out and {size_text(back)} back"
    )
    hardware = hardware_of(setup.mesh.devices.flat[0].device_kind)
    draft = draft_of_run(setup, hardware) if hardware else None
    if draft is None or hardware is None or hardware.kind == "cpu":
        return text
    work = work_of(draft, hardware)
    chunk = int(np.argmax(program.lengths))
    stage = program.layout.layers_per_stage.index(num_layers)
    forward, backward = (
        1e3 * sum(times[stage, chunk] for kind, times in work.by_op[op].items() if kind != OFFLOAD)
        for op in (Op.F, Op.B)
    )
    link = hardware.host_link
    return (
        f"{text}, {1e3 * out / link:.0f} and {1e3 * back / link:.0f} ms at {link / 1e9:.0f} GB/s "
        f"beside {forward:.0f} ms of F and {backward:.0f} ms of B ({hardware.name}, assumed)"
    )


OFFLOAD = "offload"
"""The kind of work that is the waiting itself."""
