"""The programs that the benchmarks compare: a pipelined step, and autodiff on whole sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.ops.attention import get_backend
from seq1f1b_jax.pipeline import ExecutorOptions, PipelineStep, Stage, build_step, make_mesh
from seq1f1b_jax.schedule import even_lengths, make_plan


@dataclass(frozen=True)
class Size:
    """One point of a benchmark: schedule, sequence and recompute policy."""

    num_ranks: int
    num_microbatches: int
    num_chunks: int
    seq_len: int
    recompute: str = "none"
    attention: str = "xla_blockwise"
    compute_dtype: Any = jnp.float32
    schedule: str = "seq1f1b"
    sequence_parallel: bool = False
    offload: float = 0.0


def use_cpu_devices(count: int) -> None:
    """Virtual CPU devices for this process; before JAX starts its backend."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def pipelined(
    stage: Stage, size: Size, *, mesh=None, lengths: Sequence[int] | None = None
) -> PipelineStep:
    """A step of even chunks on the first devices, or on `mesh`."""
    mesh = make_mesh(size.num_ranks) if mesh is None else mesh
    plan = make_plan(
        size.schedule, num_ranks=size.num_ranks, num_microbatches=size.num_microbatches,
        num_chunks=size.num_chunks,
    )
    if lengths is None:
        lengths = even_lengths(size.seq_len, size.num_chunks, block=128)
    return build_step(
        stage, plan, mesh, chunk_lengths=tuple(lengths),
        options=ExecutorOptions(
            size.attention, size.recompute, size.compute_dtype,
            sequence_parallel=size.sequence_parallel, offload=size.offload,
        ),
    )


def lower_step(step: PipelineStep):
    """Trace and lower `loss_and_grads` for the step's own shapes; nothing is allocated."""
    shape = (step.table.num_microbatches, 1, sum(step.table.chunk_lengths))
    tokens = jax.ShapeDtypeStruct(
        shape, jnp.int32, sharding=NamedSharding(step.mesh, PartitionSpec())
    )
    return jax.jit(step.loss_and_grads).lower(step.abstract_params(), tokens, tokens)


def fresh_params(step: PipelineStep):
    """Parameters on the mesh, drawn by one program; op by op, each would be compiled."""
    return step.from_canonical(jax.jit(step.stage.init)(jax.random.key(0)))


def plain(stage: Stage, *, attention: Callable, compute_dtype=jnp.float32) -> Callable:
    """`(params, tokens, targets) -> (loss, grads)` by autodiff, topology-free parameters."""
    loss = partial(reference_loss, stage, attention=attention, compute_dtype=compute_dtype)
    return jax.value_and_grad(lambda params, tokens, targets: loss(params, tokens, targets))


def differentiable(backend_name: str, *, platform: str = "cpu") -> Callable:
    """`(q, k, v) -> out` for whole sequences from one of our backends, with its own backward."""
    backend = get_backend(backend_name, platform=platform)

    @jax.custom_vjp
    def attention(q, k, v):
        return backend.forward(q, k, v, None)[0]

    def forward(q, k, v):
        out, lse = backend.forward(q, k, v, None)
        return out, (q, k, v, out, lse)

    def backward(saved, dout):
        q, k, v, out, lse = saved
        dq, dk, dv, _ = backend.backward(q, k, v, None, out, lse, dout)
        return dq, dk.astype(k.dtype), dv.astype(v.dtype)

    attention.defvjp(forward, backward)
    return attention


def jax_nn(implementation: str | None = None) -> Callable:
    """`jax.nn.dot_product_attention`, causal."""
    return partial(
        jax.nn.dot_product_attention, is_causal=True, implementation=implementation
    )


def random_batch(stage: Stage, num_microbatches: int, seq_len: int):
    """Tokens and next-token targets `[M, 1, T]`, int32; the last target carries no loss."""
    shape = (num_microbatches, 1, seq_len)
    tokens = jax.random.randint(jax.random.key(1), shape, 0, stage.vocab_size, jnp.int32)
    return tokens, jnp.roll(tokens, -1, axis=2).at[:, :, -1].set(-1)


def leaf_errors(grads, reference) -> dict[str, float]:
    """max|difference| / max|reference| of every leaf, by its path.

    Without rotary positions a key bias adds the same number to all scores of a query, which softmax
    ignores: its exact gradient is zero, so it is compared with the scale of the key kernel.
    """
    named = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(reference)}
    errors = {}
    for path, leaf in _leaves(grads):
        name = jax.tree_util.keystr(path)
        scale = named[name.replace("['key']['bias']", "['key']['kernel']")]
        difference = np.max(np.abs(np.asarray(leaf) - np.asarray(named[name])))
        errors[name] = float(difference / np.max(np.abs(np.asarray(scale))))
    return errors


def _leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)
