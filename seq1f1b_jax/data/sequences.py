"""From tokens to batches: what all ways to cut a corpus share, and the batch of a step by index.

`windows` and `packed` define what sequence `i` of the corpus is; here it is decided which sequences
are held out, and in what order the others are trained on.

Held out: sequences are grouped into up to 64 contiguous blocks, and the last ones of every block,
`eval_fraction` in all, are never trained on. Evaluation goes round the blocks, so the first few
held-out sequences already come from all over the corpus.

Training order: epoch after epoch, each shuffled by (seed, epoch). Item `i` of this endless order
depends on nothing else; step `k` of `n` sequences takes items `k*n ... k*n + n-1`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.corpus import Corpus

NUM_BLOCKS = 64
BLOCK_TOKENS = 1 << 22


class Batch(NamedTuple):
    """The sequences of one step.

    Query `i` of a sequence sees keys `starts[i] ... i`. The target of a token is its successor in
    the document; -1 where there is none: at the end of a document, and in the padding, which is a
    separate document at the end of a sequence; and where the successor does not count for the loss.
    """

    tokens: Int32[np.ndarray, "num_microbatches microbatch_size seq_len"]
    targets: Int32[np.ndarray, "num_microbatches microbatch_size seq_len"]
    starts: Int32[np.ndarray, "num_microbatches microbatch_size seq_len"] | None = None


class Split(NamedTuple):
    """Sequences for training and for evaluation.

    Attributes:
      train: sequence indices for training, ascending.
      held_out: sequence indices held out, in evaluation order.
      order: the endless shuffled training order (`grain.MapDataset`); item `i` is an index into
        `train`.
    """

    train: Int64[np.ndarray, " num_train"]
    held_out: Int64[np.ndarray, " num_held_out"]
    order: Sequence[int]


@dataclass(frozen=True, eq=False)
class SequenceData(ABC):
    """Training and held-out sequences of one corpus. Made by `make_data`.

    Attributes:
      corpus: the tokens.
      seq_len: tokens per sequence.
      eval_fraction: fraction of the sequences that is held out.
      seed: seed of the training order.
      split: sequences for training, in their order, and held-out sequences.
    """

    corpus: Corpus
    seq_len: int
    eval_fraction: float
    seed: int
    split: Split

    @abstractmethod
    def sequences(self, indices: Int64[np.ndarray, " n"]) -> Batch:
        """Sequences by index, as a batch of shape `[n, seq_len]`."""

    @abstractmethod
    def mean_visible_keys(self, *, window: int | None = None) -> Float64[np.ndarray, " seq_len"]:
        """Mean number of keys visible at each position, over all sequences of the corpus.

        Args:
          window: sliding-window size; None: no window.
        """

    @property
    @abstractmethod
    def fill_rate(self) -> float:
        """Fraction of positions that hold a token of the corpus, not padding."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must match for a resumed run to see the same batches; the path need not."""
        return {
            "kind": self.corpus.kind,
            "sha256": self.corpus.sha256,
            "num_tokens": int(self.corpus.tokens.size),
            "vocab_size": self.corpus.vocab_size,
            "seq_len": self.seq_len,
            "eval_fraction": self.eval_fraction,
            "seed": self.seed,
            **({"loss_sha256": self.corpus.loss_sha256} if self.corpus.loss_sha256 else {}),
        }

    def batch(
        self, step: int, *, num_microbatches: int, microbatch_size: int, rows: slice = slice(None)
    ) -> Batch:
        """The batch of step `step`: a function of (corpus, seed, step), not of earlier steps.

        Two runs with equal `num_microbatches * microbatch_size` see the same sequences in the same
        order, however they factor it. Only `rows` of every microbatch are made.

        Example:
          >>> from seq1f1b_jax.data import load_corpus, make_data
          >>> data = make_data(load_corpus("stdlib"), seq_len=1024, eval_fraction=0.05, seed=0)
          >>> data.batch(0, num_microbatches=8, microbatch_size=1).tokens.shape
          (8, 1, 1024)
        """
        items = step_items(step, num_microbatches, microbatch_size, rows)
        return grouped(self.drawn(items), num_microbatches)

    def drawn(self, items: Int64[np.ndarray, " n"]) -> Batch:
        """Sequences by their place in the training order, as a batch of shape `[n, seq_len]`."""
        self.corpus.check_whole()
        picks = [self.split.order[i] for i in items.tolist()]
        return self.sequences(self.split.train[picks])

    def held_out(
        self, num_sequences: int | None, *, num_microbatches: int, microbatch_size: int
    ) -> tuple[Batch, ...]:
        """The first held-out sequences in their fixed order, as batches of a step's shape.

        The choice of sequences does not depend on that shape: the last batch is filled up with
        sequences without targets.

        Args:
          num_sequences: at most this many; None: all that are held out.
          num_microbatches: microbatches per batch.
          microbatch_size: sequences per microbatch.
        """
        self.corpus.check_whole()
        size = num_microbatches * microbatch_size
        chosen = self.split.held_out[:num_sequences]
        parts = (self.sequences(chosen[i : i + size]) for i in range(0, chosen.size, size))
        return tuple(grouped(_filled(part, size), num_microbatches) for part in parts)

    def train_blocks(self, max_tokens: int) -> Iterator[Batch]:
        """The first training sequences in corpus order, in blocks of shape `[n, seq_len]`.

        Args:
          max_tokens: maximum number of positions, but at least one sequence.
        """
        indices = self.split.train[: max(1, max_tokens // self.seq_len)]
        step = max(1, BLOCK_TOKENS // self.seq_len)
        for start in range(0, indices.size, step):
            yield self.sequences(indices[start : start + step])


def make_split(num_sequences: int, *, eval_fraction: float, seed: int, seq_len: int) -> Split:
    """Hold sequences out and fix the order of the others.

    Args:
      num_sequences: sequences of the corpus, at least one.
      eval_fraction: fraction to hold out, in (0, 0.5].
      seed: seed of the order, in [0, 2**32).
      seq_len: tokens per sequence, for the error message.

    Raises:
      UserError: nothing would be held out.
    """
    import grain  # here, because it loads JAX, which `prepare` does not need

    num_held_out = int(num_sequences * eval_fraction)
    if num_held_out < 1:
        raise UserError(
            f"data.eval_fraction={eval_fraction} of {num_sequences} sequences of {seq_len} tokens "
            "is less than 1 held-out sequence; raise data.eval_fraction, lower data.seq_len or add "
            "text"
        )
    train, held_out = split_sequences(num_sequences, num_held_out)
    return Split(train, held_out, grain.MapDataset.range(train.size).seed(seed).shuffle().repeat())


def split_sequences(
    num_sequences: int, num_held_out: int
) -> tuple[Int64[np.ndarray, " num_train"], Int64[np.ndarray, " num_held_out"]]:
    """Sequence indices for training (ascending) and held out (going round the blocks).

    Example:
      >>> from seq1f1b_jax.data.sequences import split_sequences
      >>> split_sequences(10, 2)  # two blocks of five, the last sequence of each held out
      (array([0, 1, 2, 3, 5, 6, 7, 8]), array([4, 9]))
    """
    num_blocks = min(NUM_BLOCKS, num_held_out)
    edges = np.arange(num_blocks + 1)
    block_ends = edges[1:] * num_sequences // num_blocks
    sizes = np.diff(edges * num_held_out // num_blocks)
    # round t takes sequence t of the held-out tail of every block that long
    rounds = np.arange(int(sizes.max()))[:, None]
    tails = block_ends - sizes + rounds
    held_out = tails[rounds < sizes]
    trained = np.ones(num_sequences, bool)
    trained[held_out] = False
    return np.flatnonzero(trained), held_out


def _filled(batch: Batch, size: int) -> Batch:
    """Pad `[n, seq_len]` to `[size, seq_len]` with sequences without documents and targets."""

    def fill(part: Int32[np.ndarray, "n seq_len"] | None, value: int):
        missing = ((0, size - len(batch.tokens)), (0, 0))
        return None if part is None else np.pad(part, missing, constant_values=value)

    return Batch(fill(batch.tokens, 0), fill(batch.targets, -1), fill(batch.starts, 0))


def step_items(
    step: int, num_microbatches: int, microbatch_size: int, rows: slice
) -> Int64[np.ndarray, " n"]:
    """Places in the training order of some rows of every microbatch of a step.

    Example:
      >>> from seq1f1b_jax.data.sequences import step_items
      >>> step_items(1, 2, 2, slice(0, 1))
      array([4, 6])
    """
    size = num_microbatches * microbatch_size
    return np.arange(step * size, (step + 1) * size).reshape(num_microbatches, -1)[:, rows].ravel()


def grouped(batch: Batch, num_microbatches: int) -> Batch:
    """`[n, seq_len]` to `[num_microbatches, microbatch_size, seq_len]`."""

    def group(part: Int32[np.ndarray, "n seq_len"] | None):
        return None if part is None else part.reshape(num_microbatches, -1, part.shape[-1])

    return Batch(*map(group, batch))
