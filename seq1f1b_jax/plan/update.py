"""Seconds of the optimizer's update on one device, once per step."""

from math import prod

from seq1f1b_jax.config.optimizer import resolve_optimizer
from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.hardware import Hardware

CAST_BYTES = 6
"""Of each parameter, for the cast."""
UPDATE_BYTES = 20
"""Of each that trains: gradient 4, parameter 8 (read and written), accumulators 8."""
MOMENT_BYTES = {"adamw": 16, "adafactor": 4, "lion": 8, "muon": 8}
"""Moments read and written; adafactor reads the gradient once more, and its moments are few."""
WIDE_SHARE = 0.5
"""Of the FLOP/s of bfloat16 that float32 matmuls reach on a GPU's tensor cores (TF32)."""


def update_seconds(draft: Draft, hardware: Hardware) -> float:
    """Of the update and the casts."""
    size = UPDATE_BYTES + MOMENT_BYTES[draft.config.optimizer.name]
    moved = (draft.state.params * CAST_BYTES + draft.state.trained * size) / 4
    seconds = moved / (hardware.memory_bandwidth * hardware.memory_share)
    if draft.config.optimizer.name == "muon":
        share = WIDE_SHARE if draft.platform == "gpu" else 1.0
        seconds += newton_schulz_flops(draft) / (hardware.matmul_flops * share)
    return seconds


def newton_schulz_flops(draft: Draft) -> float:
    """FLOPs that make the updates of a device's share of the matrices orthogonal.

    An iteration on m x n, m <= n, is X X^T (2 m m n), its square (2 m m m) and one more product
    (2 m m n). Layers are shared out over `data` and `tensor` as far as they divide
    (`training.optimizer.muon`).
    """
    layers, mesh = draft.stages_per_rank * draft.max_layers, draft.config.mesh
    parts = 1
    for size in (mesh.data, mesh.tensor):
        parts *= size if layers % (parts * size) == 0 else 1
    total = 0.0
    for leaf in draft.shape.layer_leaves(1):
        if len(leaf.shape) > 1 and draft.shape.trains(f"layers.{leaf.name}"):
            count, *shape = leaf.shape if leaf.stacked else (1, *leaf.shape)
            short, long = sorted((prod(shape[:-1]), shape[-1]))
            total += count * (4 * short**2 * long + 2 * short**3)
    return resolve_optimizer(draft.config.optimizer)["ns_steps"] * total * layers / parts
