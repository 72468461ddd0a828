"""GPipe after JAX's documentation: autodiff through a scan of `ppermute`.

    tick      0    1    2    3    4         all ranks work in every tick; what is not a microbatch
    rank 0    0    1    2    .    .         (dots) is computed and thrown away, forward and backward
    rank 1    .    0    1    2    .

A step is M+P-1 ticks forward, and autodiff runs them backwards. Source: JAX documentation, notebook
`shard_map`; Huang et al., GPipe, arXiv 1811.06965.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from benchmarks.peers.model import Model
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.ops.loss import num_targets
from seq1f1b_jax.pipeline.stage import Params


def param_specs(params: Params) -> Params:
    """Layers are sharded over the ranks, the rest is replicated."""
    specs = jax.tree.map(lambda _: Spec(), params)
    return specs._replace(layers=jax.tree.map(lambda _: Spec(PIPE), params.layers))


def shardings(params: Params, mesh: Mesh) -> Params:
    """Of the parameters and of their gradients."""
    return jax.tree.map(partial(NamedSharding, mesh), param_specs(params))


def loss_and_grads(model: Model, mesh: Mesh, *, skip_idle: bool = False) -> Callable:
    """`(params, tokens, targets) -> (loss, grads)`; tokens are `[M, 1, T]`, P divides M and layers.

    Args:
      model: what to run.
      mesh: axis `pipe`.
      skip_idle: whether a rank without a microbatch skips its layers, by `lax.cond`.
    """
    ranks = mesh.shape[PIPE]
    down = [(rank, rank + 1) for rank in range(ranks - 1)]

    def body(params: Params, tokens, targets) -> Any:
        rank, num_microbatches = lax.axis_index(PIPE), len(tokens)
        inputs = jax.vmap(partial(model.embed, params))(tokens)

        def stage(x):
            return model.layers(params.layers, x)

        def tick(message, number):
            microbatch = jnp.clip(number, 0, num_microbatches - 1)
            x = jnp.where(rank == 0, inputs[microbatch], message)
            if skip_idle:
                busy = (number >= rank) & (number < rank + num_microbatches)
                y = lax.cond(busy, stage, jnp.zeros_like, x)
            else:
                y = stage(x)
            return lax.ppermute(y, PIPE, down), y

        ticks = jnp.arange(num_microbatches + ranks - 1)
        _, outputs = lax.scan(tick, jnp.zeros_like(inputs[0]), ticks)
        outputs = jnp.where(rank == ranks - 1, outputs[ranks - 1 :], 0)
        own = lax.psum_scatter(outputs, PIPE, tiled=True)  # the ranks share the head's work
        wanted = jnp.split(targets, ranks)
        wanted = lax.dynamic_index_in_dim(jnp.stack(wanted), rank, keepdims=False)
        return model.loss_sum(params, own[:, 0], wanted[:, 0])[None]

    def loss(params: Params, tokens, targets):
        specs = (param_specs(params), Spec(), Spec())
        sums = jax.shard_map(
            body, mesh=mesh, in_specs=specs, out_specs=Spec(PIPE), check_vma=False
        )(params, tokens, targets)
        return sums.sum() / num_targets(targets)

    return jax.value_and_grad(loss)
