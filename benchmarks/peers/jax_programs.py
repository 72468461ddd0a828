"""Our step and the JAX peers, compiled for one mesh; and the processes that measure them."""

import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from benchmarks.common import cases
from benchmarks.common.cases import Size
from benchmarks.peers import jax_fsdp, jax_gpipe, jax_vmap_shift
from benchmarks.peers.measure import Turns, common_start, measure
from benchmarks.peers.model import Model
from benchmarks.peers.work import Work
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.pipeline.stage import Params

PEERS: Mapping[str, tuple[Any, dict[str, bool]]] = {
    "GPipe": (jax_gpipe, {}),
    "GPipe, idle skipped": (jax_gpipe, {"skip_idle": True}),
    "vmap and shift": (jax_vmap_shift, {}),
    "FSDP": (jax_fsdp, {}),
}
REMAT = ", remat"
OURS = {"seq1f1b": "none", "seq1f1b, full": "full"}
"""Name -> recompute."""


def programs(work: Work, mesh: Mesh, *, with_remat: bool) -> dict[str, tuple[Any, tuple]]:
    """Compiled programs and their arguments, by name; each returns the loss and its gradients.

    Args:
      work: what they compute.
      mesh: axis `pipe`.
      with_remat: whether the peers run with remat, too; otherwise 1F1B of ours, without chunks.
    """
    params, batch = work.params(), tuple(map(np.asarray, work.batch()))
    found = {}
    for name, recompute in OURS.items():
        found[name] = _ours(work, mesh, params, batch, recompute=recompute)
    if not with_remat:
        found["1f1b"] = _ours(work, mesh, params, batch, num_chunks=1)
    for name in PEERS:
        for remat in (False, True)[: 1 + with_remat]:
            found[name + REMAT * remat] = peer(name, work, mesh, params, batch, remat=remat)
    return found


def peer(name: str, work: Work, mesh: Mesh, params: Params, batch, *, remat: bool, attention=None):
    """A peer's program and its arguments; attention is by default the one of our step."""
    module, settings = PEERS[name]
    attention = attention or cases.differentiable("xla_blockwise")
    sharded = module.shardings(params, mesh)
    step = module.loss_and_grads(Model(work.stage(), attention, remat), mesh, **settings)
    arguments = (_put(params, sharded), *batch)
    return jax.jit(step, out_shardings=(None, sharded)).lower(*arguments).compile(), arguments


def _ours(work: Work, mesh: Mesh, params, batch, *, recompute="none", num_chunks=None):
    size = Size(
        work.num_ranks, work.num_microbatches, num_chunks or work.num_chunks, work.seq_len,
        recompute=recompute,
    )
    step = cases.pipelined(work.stage(), size, mesh=mesh)
    arguments = (step.from_canonical(params), *batch)
    return jax.jit(step.loss_and_grads).lower(*arguments).compile(), arguments


def alone(work: Work) -> Callable[[], Any]:
    """The whole step on one device by plain autodiff, microbatch by microbatch."""
    value_and_grad = cases.plain(work.stage(), attention=cases.differentiable("xla_blockwise"))
    params, (tokens, targets) = work.params(), work.batch()

    @partial(jax.jit, donate_argnums=0)
    def add(total, tokens, targets):
        return jax.tree.map(jnp.add, total, value_and_grad(params, tokens, targets))

    def run():
        total = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
        for m in range(work.num_microbatches):
            total = add(total, tokens[m : m + 1], targets[m : m + 1])
        return jax.block_until_ready((total[0] / work.num_microbatches, total[1]))

    return run


def worker(*, work: Mapping[str, Any], turns: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Measure all programs, on the devices of one process or of several.

    Args:
      work: of `Work`.
      turns: of `Turns`.
      rounds: measured steps of each program.

    Returns:
      As `measure`, and by program the `loss` and `compiled_mb` (see there).
    """
    found = Work(**work)
    mesh = make_mesh(found.num_ranks)
    is_alone = jax.process_count() == 1
    compiled = programs(found, mesh, with_remat=is_alone)
    losses: dict[str, float] = {}

    def runner(name: str, call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            loss, _ = jax.block_until_ready(call())
            losses[name] = float(loss)

        return run

    runs = {
        name: runner(name, partial(program, *arguments))
        for name, (program, arguments) in compiled.items()
    }
    if is_alone:
        begin: Callable[[], float] = time.monotonic
    else:
        runs = {"alone": runner("alone", alone(found)), **runs}
        begin = partial(common_start, partial(_latest, mesh))
    ours = Turns(**turns)
    ours.meet(jax.process_index(), jax.process_count())
    result: dict[str, Any] = measure(
        runs, begin=begin, turns=ours, rounds=rounds, is_first=jax.process_index() == 0,
        with_memory=not is_alone,
    )
    for name, row in result.items():
        row["loss"] = losses[name]
        if name in compiled:
            row["compiled_mb"] = compiled_mb(compiled[name][0])
    return result


def compiled_mb(program) -> float:
    """Temporaries and outputs of a device."""
    memory = program.memory_analysis()
    return (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6


def _put(params: Params, sharded: Params) -> Params:
    """On the mesh, which may span processes that all hold the whole parameters."""

    def put(leaf, sharding):
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree.map(put, params, sharded)


def _latest(mesh: Mesh, number: int) -> int:
    own = np.array([number], np.int32)
    clocks = jax.make_array_from_process_local_data(NamedSharding(mesh, Spec(PIPE)), own)
    return int(_maximum(mesh)(clocks)[0])


@cache
def _maximum(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    largest = partial(lax.pmax, axis_name=PIPE)
    return jax.jit(jax.shard_map(largest, mesh=mesh, in_specs=Spec(PIPE), out_specs=Spec()))
