"""Stages stacked along a dim: `vmap` over the stages, a shift between them, one program for all.

The state is `[P, 1, T, d]`, sharded over its first dim. A tick shifts it by one stage, lets the
next microbatch in, and runs all stages at once; the compiler turns the shift into a permute.
Autodiff runs the M+P-1 ticks backwards. Idle stages compute what is thrown away. Source: Xu et al.,
GSPMD, arXiv 2105.04663, section 3.3.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from benchmarks.peers.jax_gpipe import shardings
from benchmarks.peers.model import Model
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.ops.loss import num_targets
from seq1f1b_jax.pipeline.stage import Params

__all__ = ["loss_and_grads", "shardings"]


def loss_and_grads(model: Model, mesh: Mesh) -> Callable:
    """`(params, tokens, targets) -> (loss, grads)`; tokens are `[M, 1, T]`, P divides M and layers.

    Args:
      model: what to run.
      mesh: axis `pipe`.
    """
    ranks = mesh.shape[PIPE]
    over_ranks = partial(lax.with_sharding_constraint, shardings=NamedSharding(mesh, Spec(PIPE)))

    def loss(params: Params, tokens, targets):
        stacked = jax.tree.map(lambda w: w.reshape(ranks, -1, *w.shape[1:]), params.layers)
        stacked = jax.tree.map(over_ranks, stacked)
        inputs = jax.vmap(partial(model.embed, params))(tokens)

        def tick(state, number):
            microbatch = jnp.clip(number, 0, len(tokens) - 1)
            state = jnp.roll(state, 1, axis=0).at[0].set(inputs[microbatch])
            state = over_ranks(state)
            state = over_ranks(jax.vmap(model.layers, spmd_axis_name=PIPE)(stacked, state))
            return state, state[-1]

        ticks = jnp.arange(len(tokens) + ranks - 1)
        state = over_ranks(jnp.zeros((ranks, *inputs.shape[1:]), inputs.dtype))
        _, outputs = lax.scan(tick, state, ticks)
        outputs = over_ranks(outputs[ranks - 1 :])  # the ranks share the head's work
        sums = jax.vmap(partial(model.loss_sum, params))(outputs, targets)
        return sums.sum() / num_targets(targets)

    return jax.value_and_grad(loss)
