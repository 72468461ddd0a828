"""How a unit of work is computed: decided once, the same for every program of a step."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import DTypeLike

from seq1f1b_jax.schedule.simulation.flops import RECOMPUTE_POLICIES


@dataclass(frozen=True)
class ExecutorOptions:
    """What changes neither the model nor the order of work.

    Attributes:
      attention: name of the backend, see `ops.attention`.
      recompute: what the backward computes again: `none` keeps all that a vjp wants, `selective`
        keeps matmul results, attention's out and lse and layer inputs, `full` layer inputs only.
      compute_dtype: of activations and of the compute copy of the weights; sums are kept in at
        least float32.
      unroll: the most layers of a stage that are unrolled, so that each has its own weights,
        accumulators and part of the program; more of them are a loop. `auto`: by the platform.
      loss_block: tokens whose logits exist at one time.
      restart_positions: whether positions count from the first token of a document, where the
        batch has documents.
      sequence_parallel: whether the devices of the mesh axis `tensor` share the tokens between the
        sharded parts of a layer, so that each holds its part of the residual stream.
      fill: content of unwritten buffers, blank messages and padding; only tests change it.

    Raises:
      ValueError: an unknown name of `recompute`, or an `unroll` that is no count.
    """

    attention: str = "xla_blockwise"
    recompute: str = "selective"
    compute_dtype: DTypeLike = jnp.float32
    unroll: int | Literal["auto"] = "auto"
    loss_block: int = 1024
    restart_positions: bool = False
    sequence_parallel: bool = False
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.recompute not in RECOMPUTE_POLICIES:
            raise ValueError(
                f"recompute={self.recompute!r} is unknown; use one of "
                f"{', '.join(RECOMPUTE_POLICIES)}"
            )
        if self.unroll != "auto" and (not isinstance(self.unroll, int) or self.unroll < 0):
            raise ValueError(
                f"unroll={self.unroll!r} is no number of layers; use 0 (a loop over the layers of "
                "a stage), the most layers to unroll, or 'auto'"
            )


DEFAULTS = ExecutorOptions()
