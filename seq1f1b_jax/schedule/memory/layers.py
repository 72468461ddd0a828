"""How the layers of a stage are treated: plain rules that planner and executor share."""

import math
from typing import Literal

AUTO_UNROLL = 32
"""Layers of a stage times chunks up to which `unroll="auto"` unrolls on a GPU."""


def offloaded_layers(fraction: float, max_layers: int) -> int:
    """Layers of a stage whose waiting values are in host memory: a fraction of them, rounded up.

    Example:
      >>> offloaded_layers(0.3, 8)
      3
    """
    return math.ceil(round(fraction * max_layers, 6))


def is_unrolled(
    unroll: int | Literal["auto"], *, max_layers: int, num_chunks: int, stages_per_rank: int,
    platform: str,
) -> bool:
    """Whether the layers of a stage are unrolled.

    Raises:
      ValueError: it is asked for where a rank holds several stages.
    """
    if stages_per_rank > 1:
        if unroll not in (0, "auto"):
            raise ValueError(
                f"unroll={unroll} with {stages_per_rank} stages on a rank: which of them an "
                "action runs is known in the run, so it reads their weights from one stack by "
                "index; use unroll=0 or 'auto', or a schedule with one stage on a rank"
            )
        return False
    if unroll == "auto":
        return platform == "gpu" and max_layers * num_chunks <= AUTO_UNROLL
    return max_layers <= unroll
