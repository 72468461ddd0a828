"""The mesh axis `tensor`: matmuls sharded by columns, then by rows, with one sum per pair.

A column-parallel matmul gives every device its own heads, or its own part of the MLP; the
row-parallel one that follows gives a part of a sum over devices. Between such pairs activations are
replicated, or, with `sequence`, each device keeps its part of the tokens there:

                      enter                        leave
    whole tokens      x -> norm                    sum over devices
    sequence          norm -> gather tokens        sum over devices, each keeps its tokens

These functions are differentiated where replication is not checked, so their transposes are
written by hand: that of `enter` sums, that of `leave` is the identity or gathers. Replicated
weights are used where every device contributes its part of their gradient (a norm before the sum of
`enter`'s transpose, a bias as `1/size` of itself in front of `leave`), so that one sum per step
completes them.

Source: Megatron-LM, arXiv 1909.08053, section 3; sequence parallelism: arXiv 2205.05198, section
4.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import TENSOR

SUMMED, GATHERED = "tensor_summed", "tensor_gathered"
"""Names of sums of matmuls, over devices or of several, and of what is gathered: for policies of
what a backward keeps."""

TOKENS = 1
"""Dim of the tokens in `[B, T, d]`."""


@dataclass(frozen=True)
class TensorAxis:
    """How a model's layers are sharded over the mesh axis `tensor`.

    Attributes:
      size: devices that share every layer.
      sequence: whether each keeps only its part of the tokens where a layer is not sharded (norms,
        residual stream, messages between stages).
      groups: into so many runs of consecutive tokens a chunk is cut, of each of which every device
        has its part; a sublayer works on one of them (`pipeline.halves`).
    """

    size: int = 1
    sequence: bool = False
    groups: int = 1

    @property
    def token_parts(self) -> int:
        """Devices over which the tokens of the residual stream are sharded."""
        return self.size if self.sequence else 1

    @property
    def environment(self) -> list[tuple[str, int]]:
        """The axis, for tracing outside of `shard_map`."""
        return [(TENSOR, self.size)] if self.size > 1 else []

    def check_chunks(self, lengths: Sequence[int]) -> None:
        """Refuse chunks whose tokens the devices cannot share.

        Raises:
          ValueError: there is one device, or a chunk that it does not divide evenly.
        """
        if self.sequence and self.size == 1:
            raise ValueError(
                "sequence_parallel shares tokens over the mesh axis 'tensor', and the mesh has "
                "none; leave it off, or give the mesh such an axis (make_mesh(num_tensor=...))"
            )
        unit = self.token_parts * self.groups
        odd = [length for length in lengths if length % unit]
        if odd:
            raise ValueError(
                f"chunks of {odd} tokens cannot be shared by tensor={self.size} devices; with "
                f"sequence_parallel every chunk length is a multiple of {unit}"
            )

    def enter(
        self, norm: Callable[[Array], Array], x: Float[Array, "B t d"]
    ) -> Float[Array, "B T d"]:
        """`norm(x)` of all tokens, for a column-parallel matmul."""
        if self.size == 1:
            return norm(x)
        if self.sequence:
            return checkpoint_name(_gather(norm(x)), GATHERED)
        return norm(_copy(x))

    def leave(self, part: Float[Array, "B T d"]) -> Float[Array, "B t d"]:
        """The sum over devices of the result of a row-parallel matmul."""
        if self.size == 1:
            return part
        return checkpoint_name(_sum_tokens(part) if self.sequence else _sum(part), SUMMED)

    def own_tokens(self, values: Array, *, dim: int = TOKENS) -> Array:
        """Of replicated values the tokens of this device."""
        if self.token_parts == 1:
            return values
        groups = jnp.split(values, self.groups, axis=dim)
        length = groups[0].shape[dim] // self.size
        own = [lax.dynamic_slice_in_dim(x, own_start(length), length, dim) for x in groups]
        return jnp.concatenate(own, axis=dim)

    def all_tokens(self, values: Float[Array, "B t d"]) -> Float[Array, "B T d"]:
        """The tokens of all devices; not differentiated."""
        if self.token_parts == 1:
            return values
        return self._by_group(all_tokens, values)

    def sum_tokens(self, part: Float[Array, "B T d"]) -> Float[Array, "B t d"]:
        """The sum over devices, of which each keeps its tokens; not differentiated."""
        return self._by_group(sum_tokens, part)

    def _by_group(self, collective: Callable, values: Array) -> Array:
        groups = jnp.split(values, self.groups, axis=TOKENS)
        return jnp.concatenate([collective(group) for group in groups], axis=TOKENS)

    def shape_of(self, function: Callable, *arguments):
        """`jax.eval_shape` for a function that uses this axis."""
        traced = jax.make_jaxpr(function, axis_env=self.environment, return_shape=True)
        return traced(*arguments)[1]


ONE_DEVICE = TensorAxis()


def own_start(count: int) -> Int[Array, ""]:
    """First index of this device's part of a dim of which every device has `count`."""
    return lax.axis_index(TENSOR) * count


def all_tokens(values: Float[Array, "B t d"]) -> Float[Array, "B T d"]:
    """Gather over the axis, first device first."""
    return lax.all_gather(values, TENSOR, axis=TOKENS, tiled=True)


def sum_tokens(part: Float[Array, "B T d"]) -> Float[Array, "B t d"]:
    """Sum over the axis; each device keeps its tokens."""
    return lax.psum_scatter(part, TENSOR, scatter_dimension=TOKENS, tiled=True)


def _linear(function: Callable, transpose: Callable) -> Callable:
    """A linear function whose transpose is given."""
    linear = jax.custom_vjp(function)
    linear.defvjp(lambda x: (function(x), None), lambda _, dy: (transpose(dy),))
    return linear


_psum = partial(lax.psum, axis_name=TENSOR)
_copy = _linear(lambda x: x, _psum)
_sum = _linear(_psum, lambda dy: dy)
_gather = _linear(all_tokens, sum_tokens)
_sum_tokens = _linear(sum_tokens, all_tokens)
