"""What a run needs of every device and host, and what is there: before anything is compiled."""

import math
import socket
from bisect import bisect_left
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seq1f1b_jax.cli.devices import memory_of_machine
from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import Group
from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.memory import MemoryPrediction, predict_memory
from seq1f1b_jax.pipeline.params.layout import staged_shapes
from seq1f1b_jax.training.checkpoint.restore import abstract_state
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import state_shardings


class Needs(NamedTuple):
    """Bytes.

    Attributes:
      step: of a device, what a step allocates.
      state: of a device, parameters and optimizer.
      present: of the memory that it has, shared with `sharing` devices of this process.
      sharing: how many share that; 1 where a device has its own memory.
      host: of host memory, for each device, pinned.
      host_present: of the memory that this host has.
      host_sharing: how many devices of the run share that.
    """

    step: int
    state: int
    present: int | None
    sharing: int
    host: int = 0
    host_present: int | None = None
    host_sharing: int = 1

    @property
    def total(self) -> int:
        """Of a device, state and step."""
        return self.step + self.state

    @property
    def fit(self) -> bool:
        """Whether the devices have that much; True if unknown."""
        return self.present is None or self.total * self.sharing <= self.present

    @property
    def host_fits(self) -> bool:
        """Whether the host has that much; True if unknown."""
        return self.host_present is None or self.host * self.host_sharing <= self.host_present


def program_of(setup: Setup) -> Program:
    """The static facts of the run's step."""
    data, pipeline = setup.config.data, setup.pipeline
    return pipeline.program(
        data.microbatch_size // pipeline.num_data, has_starts=data.packing == "documents"
    )


def needs_of(setup: Setup, memory: MemoryPrediction) -> Needs:
    """Predicted needs of a run, and the memory of the devices and the host of this process.

    Args:
      setup: of the run.
      memory: of its step, from `predict_memory`.
    """
    state, (present, sharing) = _state_bytes(setup), _present(setup)
    if _is_one_memory(setup):
        return Needs(memory.total + memory.host, state, present, sharing)
    local = len(setup.mesh.local_devices) * setup.processes_on_host
    return Needs(
        memory.total, state, present, sharing, memory.host, memory_of_machine(), local
    )


def check_state_fits(setup: Setup) -> None:
    """Refuse a model whose parameters and optimizer alone are more than the memory of a device.

    Raises:
      UserError: it is too large, even without what a step needs.
    """
    needs = Needs(0, _state_bytes(setup), *_present(setup))
    if not needs.fit:
        assert needs.present is not None
        raise UserError(
            f"the model's parameters and optimizer take {needs.total * needs.sharing / 1e9:,.1f} "
            f"GB, and there are {needs.present / 1e9:,.1f} GB of memory; lower model.* "
            "(num_layers, model_dim, mlp_dim, vocab_size), or use more devices"
        )


def check_step_fits(setup: Setup) -> None:
    """Refuse a step that is predicted to need more than there is, unless that is switched off.

    Raises:
      UserError: it does not fit on the devices, or on the host.
    """
    needs = needs_of(setup, predict_memory(program_of(setup)))
    problem = shortage(setup, needs)
    if problem and setup.config.executor.check_memory:
        raise UserError(f"{problem}; --executor.check_memory false starts all the same")


def shortage(setup: Setup, needs: Needs) -> str | None:
    """What there is too little of, and what would need less; `None` if a step fits."""
    less = ["more chunks (--schedule.num_chunks)"]
    if setup.pipeline.options.recompute in ("none", "selective"):
        less.append("--executor.recompute matmuls or full")
    if not needs.fit:
        assert needs.present is not None
        num_layers = setup.pipeline.layout.max_layers
        if not _is_one_memory(setup) and setup.pipeline.num_host_layers < num_layers:
            less.append("host memory (--executor.offload auto)")
        whose = "a device has" if needs.sharing == 1 else "there are"
        return (
            f"a step is predicted to need {size_text(needs.total * needs.sharing)}, and {whose} "
            f"{size_text(needs.present)} of memory: {', '.join(less)} or more stages (--mesh.pipe) "
            "need less"
        )
    if not needs.host_fits:
        assert needs.host_present is not None
        if setup.config.executor.offload != "auto":
            less.append("a smaller --executor.offload")
        layers = f"{setup.pipeline.num_host_layers} of {setup.pipeline.layout.max_layers} layers"
        return (
            f"executor.offload={setup.config.executor.offload} needs "
            f"{size_text(needs.host * needs.host_sharing)} of host memory for {layers} of "
            f"{needs.host_sharing} devices, and this host has {size_text(needs.host_present)}: "
            f"{', '.join(less)} or more hosts need less"
        )
    return None


def with_offload(setup: Setup, group: Group) -> Setup:
    """The run with the layers that wait in host memory chosen, where that is left open.

    As few as fit the device, in all processes as many as in the one that needs most; none where
    host and device share one memory.

    Args:
      setup: of the run.
      group: its processes; each calls this.
    """
    if setup.pipeline.options.offload == 0 and setup.config.executor.offload != "auto":
        return setup
    setup = replace(setup, processes_on_host=_processes_on_host(group))
    if setup.config.executor.offload != "auto" or _is_one_memory(setup):
        return setup
    chosen = max(map(int, group.gather("layers in host memory", str(_least(setup)))))
    return _offloaded(setup, chosen)


def _least(setup: Setup) -> int:
    """The fewest layers in host memory with which a step fits; all, if it never does."""

    def fits(count: int) -> bool:
        candidate = _offloaded(setup, count)
        return needs_of(candidate, predict_memory(program_of(candidate))).fit

    if fits(0):
        return 0
    others = range(1, setup.pipeline.layout.max_layers)  # from one on, each needs less
    return 1 + bisect_left(others, True, key=fits)


def _offloaded(setup: Setup, num_host_layers: int) -> Setup:
    return replace(setup, pipeline=replace(setup.pipeline, num_host_layers=num_host_layers))


def _processes_on_host(group: Group) -> int:
    own = socket.gethostname()
    return group.gather("hosts", own).count(own)


def _is_one_memory(setup: Setup) -> bool:
    """Whether devices compute in the host's memory."""
    return setup.mesh.local_devices[0].platform == "cpu"


def _present(setup: Setup) -> tuple[int | None, int]:
    """Bytes of memory that are there, and how many devices share them."""
    if _is_one_memory(setup):
        return memory_of_machine(), len(setup.mesh.local_devices)
    return (setup.mesh.local_devices[0].memory_stats() or {}).get("bytes_limit"), 1


def _state_bytes(setup: Setup) -> int:
    """Of one device: parameters and the optimizer's state as they are sharded over the mesh."""
    shapes = staged_shapes(abstract_state(setup), setup.pipeline.layout)
    shardings = state_shardings(shapes, setup.pipeline)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf, sharding in leaves
    )
