"""Held-out loss through the pipeline, by position."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float64, Num

from seq1f1b_jax.data import Batch
from seq1f1b_jax.host.progress import Waiting, waiting
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.feed import make_feed
from seq1f1b_jax.training.setup import Setup

FIRST_BIN = 64


class HeldOut(NamedTuple):
    """Losses of held-out targets by position: how many tokens of the document precede the query.

    Attributes:
      losses: sum of the losses at each position, nats.
      counts: targets at each position; of a mixture each by its source's weight.
    """

    losses: Float64[np.ndarray, " seq_len"]
    counts: Num[np.ndarray, " seq_len"]

    @property
    def mean(self) -> float:
        """Nats per target; 0 where there is none."""
        return float(self.losses.sum() / max(1, self.counts.sum()))

    def by_position(self) -> Iterator[tuple[int, int, float]]:
        """`(first, end, nats per target)` of positions; every bin twice as long as the one before.

        Example:
          >>> import numpy as np
          >>> held_out = HeldOut(np.ones(256), np.full(256, 2))
          >>> list(held_out.by_position())
          [(0, 64, 0.5), (64, 128, 0.5), (128, 256, 0.5)]
        """
        first, end = 0, FIRST_BIN
        while first < self.counts.size:
            end = min(end, self.counts.size)
            if count := self.counts[first:end].sum():
                yield first, end, float(self.losses[first:end].sum() / count)
            first, end = end, 2 * end


Evaluate = Callable[[Params, Sequence[Batch]], HeldOut]


def make_evaluation(setup: Setup, *, waiting: Waiting = waiting) -> Evaluate:
    """`(params, batches) -> HeldOut`, compiled once; for all processes, each of which calls it.

    Losses are added sequence by sequence, so that the same sequences give the same sums, however
    they are grouped into batches.

    Args:
      setup: of the run.
      waiting: shows that the first call compiles.
    """
    token_losses = jax.jit(setup.pipeline.token_losses)
    feed = make_feed(setup.config, setup.mesh)
    compiled: dict[jax.tree_util.PyTreeDef, Callable] = {}  # with and without documents

    def evaluate(params: Params, batches: Sequence[Batch]) -> HeldOut:
        seq_len = setup.config.data.seq_len
        held_out = HeldOut(np.zeros(seq_len), np.zeros(seq_len, np.int64))
        for batch in batches:
            fed = feed.whole(batch)
            kind = jax.tree.structure(fed)
            if kind not in compiled:
                with waiting("compiling the evaluation"):
                    compiled[kind] = token_losses.lower(params, *fed).compile()
            _add(held_out, batch, whole(compiled[kind](params, *fed)))
        return held_out

    return evaluate


def whole(array: jax.Array) -> np.ndarray:
    """An array on the host, also where several processes hold parts of it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def _add(held_out: HeldOut, batch: Batch, losses: np.ndarray) -> None:
    """Add a batch's losses to the sums, in the order of its sequences."""
    positions = np.broadcast_to(np.arange(batch.tokens.shape[-1]), batch.tokens.shape)
    if batch.starts is not None:
        positions = positions - batch.starts
    counted = batch.targets >= 0
    np.add.at(held_out.losses, positions[counted], losses[counted].astype(np.float64))
    np.add.at(held_out.counts, positions[counted], 1)
