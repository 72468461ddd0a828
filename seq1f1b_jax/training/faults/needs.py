"""What a run needs of every device, and what is there: reported before anything is compiled."""

import math
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seq1f1b_jax.config import UserError
from seq1f1b_jax.pipeline.memory import MemoryPrediction
from seq1f1b_jax.pipeline.params.layout import staged_shapes
from seq1f1b_jax.training.checkpoint.restore import abstract_state
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import state_shardings

CURE = (
    "more chunks (--schedule.num_chunks), --executor.recompute selective or full, more stages "
    "(--mesh.pipe) or fewer microbatches in flight need less"
)


class Needs(NamedTuple):
    """Bytes.

    Attributes:
      step: of a device, what a step allocates.
      state: of a device, parameters and optimizer.
      present: of the memory that it has, shared with `sharing` devices of this process.
      sharing: how many share that; 1 where a device has its own memory.
    """

    step: int
    state: int
    present: int | None
    sharing: int

    @property
    def total(self) -> int:
        """Of a device, state and step."""
        return self.step + self.state

    @property
    def fit(self) -> bool:
        """Whether there is that much; True if unknown."""
        return self.present is None or self.total * self.sharing <= self.present


def needs_of(setup: Setup, memory: MemoryPrediction) -> Needs:
    """Predicted needs of a run, and the memory of the devices of this process.

    Args:
      setup: of the run.
      memory: of its step, from `predict_memory`.
    """
    return Needs(memory.total, _state_bytes(setup), *_present(setup))


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


def _present(setup: Setup) -> tuple[int | None, int]:
    """Bytes of memory that are there, and how many devices share them."""
    device = setup.mesh.local_devices[0]
    if device.platform == "cpu":
        return _memory_of_machine(), len(setup.mesh.local_devices)
    return (device.memory_stats() or {}).get("bytes_limit"), 1


def _state_bytes(setup: Setup) -> int:
    """Of one device: parameters and the optimizer's state as they are sharded over the mesh."""
    shapes = staged_shapes(abstract_state(setup), setup.pipeline.layout)
    shardings = state_shardings(shapes, setup.pipeline)
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf, sharding in leaves
    )


def _memory_of_machine() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system knows
        return None
