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
      attention: name of the backend, see `ops.attention`; `auto` takes the fastest that is proven
        on the mesh's devices.
      recompute: what the backward computes again: `none` keeps all that a vjp wants, `selective`
        keeps matmul results, attention's out and lse and layer inputs, `matmuls` attention's out
        and lse and layer inputs, `full` layer inputs only.
      compute_dtype: of activations and of the compute copy of the weights; sums are kept in at
        least float32.
      unroll: the most layers of a stage that are unrolled, so that each has its own weights,
        accumulators and part of the program; more of them are a loop. `auto`: by the platform.
      offload: part of the layers of a stage, 0 to 1, whose residuals wait in the host's pinned
        memory; rounded up to whole layers. Where host and device share one memory it moves nothing.
      loss_block: tokens whose logits exist at one time; None: as many as fit into the scratch that
        a layer's backward takes anyway, at least 1024 (`memory.with_loss_block`).
      trainable: patterns of the leaves that train, see `params.trained`; None: all of them.
      z_loss: factor of the squared logarithm of the softmax's denominator in the loss that is
        trained on (`ops.loss.LossRule`).
      balance_loss: factor of what is added to that loss where experts are not used alike
        (`executor.balance`).
      router_z_loss: factor of the squared logarithm of the routers' denominators, likewise.
      restart_positions: whether positions count from the first token of a document, where the
        batch has documents.
      sequence_parallel: whether the devices of the mesh axis `tensor` share the tokens between the
        sharded parts of a layer, so that each holds its part of the residual stream.
      halves: whether a layer works on two halves of a chunk's tokens, so that the collectives of
        one run beside the matmuls of the other (`pipeline.halves`); needs `sequence_parallel`.
      fill: content of unwritten buffers, blank messages and padding; None: whatever the memory held
        and, in what is sent, zeros. Only tests set it.

    Raises:
      ValueError: an unknown name of `recompute`; an `unroll` that is no count; an `offload` that is
        no fraction; `halves` of tokens that are not shared, or with `recompute` `none`.
    """

    attention: str = "auto"
    recompute: str = "selective"
    compute_dtype: DTypeLike = jnp.float32
    unroll: int | Literal["auto"] = "auto"
    offload: float = 0.0
    loss_block: int | None = None
    trainable: tuple[str, ...] | None = None
    z_loss: float = 0.0
    balance_loss: float = 0.0
    router_z_loss: float = 0.0
    restart_positions: bool = False
    sequence_parallel: bool = False
    halves: bool = False
    fill: float | None = None

    def __post_init__(self) -> None:
        if self.recompute not in RECOMPUTE_POLICIES:
            raise ValueError(
                f"recompute={self.recompute!r} is unknown; use one of "
                f"{', '.join(RECOMPUTE_POLICIES)}"
            )
        if self.halves and not self.sequence_parallel:
            raise ValueError(
                "halves overlap the collectives of tokens that devices share, and "
                "sequence_parallel is off; switch it on, with a mesh axis 'tensor', or leave "
                "halves off"
            )
        if self.halves and self.recompute == "none":
            raise ValueError(
                "halves with recompute='none' would keep each half of a layer's values beside the "
                "whole; use recompute='selective', or leave halves off"
            )
        if self.unroll != "auto" and (not isinstance(self.unroll, int) or self.unroll < 0):
            raise ValueError(
                f"unroll={self.unroll!r} is no number of layers; use 0 (a loop over the layers of "
                "a stage), the most layers to unroll, or 'auto'"
            )
        if not 0 <= self.offload <= 1:
            raise ValueError(
                f"offload={self.offload!r} is not a fraction of the layers; use a number from 0 "
                "(all on the device) to 1 (all in host memory)"
            )


DEFAULTS = ExecutorOptions()
