"""Fully sharded data parallelism over the same devices: no pipeline, whole models on own sequences.

Every device holds its part of every weight and works on M/P of the sequences. A layer's weights are
gathered when it runs; the transpose of the gather reduces and scatters their gradients. With remat
they are dropped and gathered again in the backward; without, autodiff keeps them. Source: JAX
documentation, notebook `shard_map`; Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from benchmarks.peers.model import Model
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.ops.loss import num_targets
from seq1f1b_jax.pipeline.stage import Params


def param_specs(params: Params) -> Params:
    """The first dim of a weight is sharded, that of layers aside."""
    specs = jax.tree.map(lambda _: Spec(PIPE), params)
    return specs._replace(layers=jax.tree.map(lambda _: Spec(None, PIPE), params.layers))


def shardings(params: Params, mesh: Mesh) -> Params:
    """Of the parameters and of their gradients."""
    return jax.tree.map(partial(NamedSharding, mesh), param_specs(params))


def loss_and_grads(model: Model, mesh: Mesh) -> Callable:
    """`(params, tokens, targets) -> (loss, grads)`; tokens are `[M, 1, T]`, P divides M.

    Args:
      model: what to run.
      mesh: axis `pipe`, here that of the data.
    """

    def gather(weights: Any) -> Any:
        return jax.tree.map(lambda w: lax.all_gather(w, PIPE, tiled=True), weights)

    def body(params: Params, tokens, targets):
        whole = gather(params._replace(layers=()))
        x = model.embed(whole, tokens[:, 0])
        y = model.layers(params.layers, x, gather=gather)
        return model.loss_sum(whole, y, targets[:, 0])[None]

    def loss(params: Params, tokens, targets):
        specs = (param_specs(params), Spec(PIPE), Spec(PIPE))
        sums = jax.shard_map(
            body, mesh=mesh, in_specs=specs, out_specs=Spec(PIPE), check_vma=False
        )(params, tokens, targets)
        return sums.sum() / num_targets(targets)

    return jax.value_and_grad(loss)
