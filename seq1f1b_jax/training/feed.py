"""A step's sequences on the devices: every process makes the rows that its own devices work on."""

from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from seq1f1b_jax.config import Config
from seq1f1b_jax.data import Batch, MixedData, SequenceData
from seq1f1b_jax.ops.axes import DATA, axis_size
from seq1f1b_jax.pipeline.params.sharding import batch_spec


@dataclass(frozen=True, eq=False)
class Feed:
    """Brings batches to the devices.

    Attributes:
      mesh: where they go: microbatches are spread over its axis `data`.
      num_microbatches, microbatch_size: of a step.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import Batch
      >>> from seq1f1b_jax.pipeline import make_mesh
      >>> tokens = np.zeros((4, 2, 16), np.int32)
      >>> batch = Feed(make_mesh(1), 4, 2).whole(Batch(tokens, tokens))
      >>> batch.tokens.shape, batch.tokens.is_fully_addressable
      ((4, 2, 16), True)
    """

    mesh: Mesh
    num_microbatches: int
    microbatch_size: int

    def step(self, data: SequenceData | MixedData, step: int) -> Batch:
        """The batch of a step, independent of which process makes which part."""
        rows = self.own_rows()
        batch = data.batch(
            step, num_microbatches=self.num_microbatches, microbatch_size=self.microbatch_size,
            rows=rows,
        )
        return self.spread(batch, rows)

    def whole(self, batch: Batch) -> Batch:
        """Put a batch that every process holds in full on the devices."""
        rows = self.own_rows()
        parts = Batch(*(part if part is None else part[:, rows] for part in batch))
        return self.spread(parts, rows)

    def own_rows(self) -> slice:
        """Sequences of every microbatch that this process' devices work on."""
        each = self.microbatch_size // axis_size(self.mesh, DATA)
        shape = (self.num_microbatches, self.microbatch_size, 1)
        indices = self._sharding.addressable_devices_indices_map(shape).values()
        firsts = {at[1].indices(self.microbatch_size)[0] for at in indices if at is not None}
        first, end = min(firsts), max(firsts) + each
        assert end - first == each * len(firsts), "pipelines of a process are neighbours"
        return slice(first, end)

    def spread(self, batch: Batch, rows: slice) -> Batch:
        """Rows of this process as its part of the batch of all."""

        def put(part: np.ndarray | None) -> jax.Array | None:
            if part is None:
                return None
            shape = (part.shape[0], self.microbatch_size, part.shape[2])

            def own(index: tuple[slice, ...]) -> np.ndarray:
                first, end, _ = index[1].indices(self.microbatch_size)
                return part[:, first - rows.start : end - rows.start]

            return jax.make_array_from_callback(shape, self._sharding, own)

        return Batch(*map(put, batch))

    @property
    def _sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, batch_spec(self.mesh))


def make_feed(config: Config, mesh: Mesh) -> Feed:
    """For a run's training steps and evaluations."""
    return Feed(mesh, config.schedule.num_microbatches, config.data.microbatch_size)
