"""How a unit of work is computed: decided once, the same for every program of a step."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import DTypeLike

from seq1f1b_jax.schedule.simulation.flops import RECOMPUTE_POLICIES


@dataclass(frozen=True)
class ExecutorOptions:
    """What changes neither the model nor the order of work.

    Attributes:
      attention: name of the backend, see `ops.attention`; `auto` takes the fastest that is proven
        on the mesh's devices.
      recompute: what the backward computes again: `none` keeps all that a vjp wants, `selective`
        keeps matmul results, attention's out and lse and layer inputs, `full` layer inputs only.
      compute_dtype: of activations and of the compute copy of the weights; sums are kept in at
        least float32.
      loss_block: tokens whose logits exist at one time.
      restart_positions: whether positions count from the first token of a document, where the
        batch has documents.
      sequence_parallel: whether the devices of the mesh axis `tensor` share the tokens between the
        sharded parts of a layer, so that each holds its part of the residual stream.
      fill: content of unwritten buffers, blank messages and padding; only tests change it.

    Raises:
      ValueError: an unknown name of `recompute`.
    """

    attention: str = "auto"
    recompute: str = "selective"
    compute_dtype: DTypeLike = jnp.float32
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


DEFAULTS = ExecutorOptions()
