"""Muon: updates of the layers' matrices made orthogonal, AdamW for embedding, head, norms, biases.

A matrix with moment M (`leaves` says what one matrix is) steps by

    U = NewtonSchulz(M) * consistent_rms * sqrt(max(in, out)),

so that the root mean square of a step is about `consistent_rms`, 0.2 as AdamW's, for any shape.

The momentum, elementwise, is sharded as all of an optimizer's state: over `pipe`, over `tensor` as
the parameter, over `data`. Newton-Schulz multiplies a matrix by itself, so each is made whole on
one device: before the iterations every leaf `[P, L, in, out]` is moved to a sharding over `pipe` by
its first dim and over `data` and `tensor` by its second, that of the layers, as far as L divides.
Each device orthogonalises the matrices of its share; where L does not divide, devices repeat each
other's work. Per leaf and step that is one resharding there and one back, in the moment's dtype,
and nothing inside the iterations: they run in a `shard_map`, one matrix after the other, so that
they need room for one. Zero matrices, which pad stages with fewer layers, stay zero: a constant is
added to the norms that matrices are divided by.

Source: Jordan et al., Muon (2024), kellerjordan.github.io/posts/muon; the scale: Liu et al., Muon
is Scalable for LLM Training, arXiv 2502.16982, section 2.2; the iterations: `optax.contrib`.
"""

from functools import partial
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import DATA, PIPE, TENSOR, axis_size
from seq1f1b_jax.pipeline import PipelineStep
from seq1f1b_jax.pipeline.stage import Tree
from seq1f1b_jax.training.optimizer.leaves import layer_matrices, num_stacking_dims


class MuonState(NamedTuple):
    """State of `scale_by_muon`.

    Attributes:
      count: finished steps.
      mu: moment of every matrix of a layer; `None` for other leaves.
      rest: state of the optimizer of the others.
    """

    count: Int[Array, ""]
    mu: Tree
    rest: optax.OptState


def scale_by_muon(
    rest: optax.GradientTransformation,
    *,
    momentum: float,
    nesterov: bool,
    ns_steps: int,
    consistent_rms: float,
    pipeline: PipelineStep | None = None,
) -> optax.GradientTransformation:
    """The direction of a step, without decay and learning rate.

    Equal to `optax.contrib.muon` with these settings, layer by layer.

    Args:
      rest: for embedding, head, norms, biases and learned positions.
      momentum: decay of the matrices' moment.
      nesterov: whether the step looks one gradient ahead of it.
      ns_steps: Newton-Schulz iterations.
      consistent_rms: root mean square of a step.
      pipeline: where the parameters are; `None`: free of topology, on one device.
    """

    def init(params):
        mask = layer_matrices(params, pipeline)
        mu = optax.tree.zeros_like(_part(params, mask))
        others = rest.init(_part(params, mask, of=False))
        return MuonState(jnp.zeros((), jnp.int32), mu, others)

    def update(grads, state, params=None):
        mask = layer_matrices(grads, pipeline)
        own, count = _part(grads, mask), optax.safe_increment(state.count)
        mu = optax.tree.update_moment(own, state.mu, momentum, 1)
        ahead = optax.tree.bias_correction(mu, momentum, count)
        if nesterov:
            corrected = optax.tree.bias_correction(own, momentum, count)
            ahead = optax.tree.bias_correction(mu, momentum, optax.safe_increment(count))
            ahead = jax.tree.map(
                lambda m, g: momentum * m + (1 - momentum) * g, ahead, corrected
            )

        def step(path, leaf):
            num_stacking = num_stacking_dims(path, grads, pipeline)
            return consistent_rms * _orthogonal(leaf, num_stacking, ns_steps, pipeline)

        steps = jax.tree.map_with_path(step, ahead)
        others, rest_state = rest.update(
            _part(grads, mask, of=False), state.rest, _part(params, mask, of=False)
        )
        return _joined(mask, steps, others), MuonState(count, mu, rest_state)

    return optax.GradientTransformation(init, update)


def _part(tree: Tree, mask: Tree, *, of: bool = True) -> Tree:
    """The leaves whose mask is `of`, `None` in the places of the others."""
    if tree is None:
        return None
    return jax.tree.map(lambda leaf, own: leaf if own == of else None, tree, mask)


def _joined(mask: Tree, own: Tree, others: Tree) -> Tree:
    """The inverse of two complementary `_part`s."""
    is_none = lambda leaf: leaf is None  # noqa: E731
    return jax.tree.map(
        lambda pick, a, b: a if pick else b, mask, own, others, is_leaf=is_none
    )


def _orthogonal(
    leaf: Float[Array, "..."], num_stacking: int, ns_steps: int, pipeline: PipelineStep | None
) -> Float[Array, "..."]:
    """Every matrix of a leaf over its singular values, times the root of its longer side."""
    inside = partial(_newton_schulz, num_stacking=num_stacking, ns_steps=ns_steps)
    *ins, out = leaf.shape[num_stacking:]
    scale = max(prod(ins), out) ** 0.5
    if pipeline is None:
        return scale * inside(leaf)
    spec = whole_spec(leaf.shape, pipeline)
    local = jax.shard_map(
        inside, mesh=pipeline.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return scale * local(leaf)


def whole_spec(shape: tuple[int, ...], pipeline: PipelineStep) -> Spec:
    """Of a stacked leaf `[P, L, ...]`: whole matrices on every device, shared out by layer."""
    ranks = PIPE if axis_size(pipeline.mesh, PIPE) > 1 else None
    axes, size = [], 1
    for axis in (DATA, TENSOR):
        times = axis_size(pipeline.mesh, axis)
        if times > 1 and shape[1] % (size * times) == 0:
            axes, size = [*axes, axis], size * times
    return Spec(ranks, tuple(axes) or None)


def _newton_schulz(
    leaf: Float[Array, "..."], *, num_stacking: int, ns_steps: int
) -> Float[Array, "..."]:
    """Optax's iterations, one matrix after the other: its transformation without a moment."""
    iterate = optax.contrib.scale_by_muon(
        ns_steps=ns_steps, beta=0.0, nesterov=False,
        weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(),
    )

    def one(matrix):
        return iterate.update(matrix, iterate.init(matrix))[0]

    matrices = leaf.reshape(-1, prod(leaf.shape[num_stacking:-1]), leaf.shape[-1])
    return jax.lax.map(one, matrices).reshape(leaf.shape)
