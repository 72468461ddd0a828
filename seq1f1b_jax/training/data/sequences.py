"""From tokens to batches: windows, what is held out, and the batch of a step by its index.

The corpus is cut into windows of `seq_len + 1` tokens that do not overlap (a rest shorter than a
window is left out); a window's first `seq_len` tokens are the inputs, its last `seq_len` the
targets.

Held out: windows are grouped into up to 64 blocks of neighbours, and the last windows of every
block, `eval_fraction` in all, are never trained on. Their order goes round the blocks, so the
first few of them already come from all over the corpus.

Training order: epoch after epoch, each shuffled by (seed, epoch). Sequence `i` of this endless
order depends on nothing else; step `k` of `n` sequences takes `k*n ... k*n + n-1`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int32, Int64

from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.data.corpus import Corpus

NUM_BLOCKS = 64


class Batch(NamedTuple):
    """One step's sequences; `targets` are the tokens that follow `tokens`."""

    tokens: Int32[np.ndarray, "num_microbatches microbatch_size seq_len"]
    targets: Int32[np.ndarray, "num_microbatches microbatch_size seq_len"]


@dataclass(frozen=True)
class SequenceData:
    """Training and held-out sequences of one corpus. Made by `make_data`.

    Attributes:
      corpus: the tokens.
      seq_len: tokens of one sequence.
      eval_fraction: part of the windows that is held out.
      seed: seed of the training order.
      train_windows: window indices for training, ascending.
      held_out_windows: window indices held out, in evaluation order.
      order: the endless shuffled training order; item `i` is an index into `train_windows`.
    """

    corpus: Corpus
    seq_len: int
    eval_fraction: float
    seed: int
    train_windows: Int64[np.ndarray, " num_train"]
    held_out_windows: Int64[np.ndarray, " num_held_out"]
    order: grain.MapDataset

    @property
    def identity(self) -> dict[str, str | int | float]:
        """What must be equal for a resumed run to see the same batches; the path is not in it."""
        return {
            "kind": self.corpus.kind,
            "sha256": self.corpus.sha256,
            "num_tokens": int(self.corpus.tokens.size),
            "vocab_size": self.corpus.vocab_size,
            "seq_len": self.seq_len,
            "eval_fraction": self.eval_fraction,
            "seed": self.seed,
        }

    def windows(self, indices: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, "n window"]:
        """Windows by index, `seq_len + 1` tokens each."""
        window = self.seq_len + 1
        whole = self.corpus.tokens[: self.corpus.tokens.size // window * window]
        return whole.reshape(-1, window)[indices].astype(np.int32)

    def batch(self, step: int, *, num_microbatches: int, microbatch_size: int) -> Batch:
        """The batch of step `step`, a function of (corpus, seed, step) and of nothing before it.

        Two runs whose `num_microbatches * microbatch_size` agree see the same sequences in the same
        order, however they are factored.

        Example:
          >>> data.batch(0, num_microbatches=8, microbatch_size=1).tokens.shape
          (8, 1, 1024)
        """
        size = num_microbatches * microbatch_size
        picks = np.array([self.order[i] for i in range(step * size, (step + 1) * size)])
        return _as_batch(self.windows(self.train_windows[picks]), num_microbatches)

    def held_out(
        self, num_batches: int, *, num_microbatches: int, microbatch_size: int
    ) -> tuple[Batch, ...]:
        """The first held-out sequences in their fixed order, as at most `num_batches` full batches.

        Raises:
          UserError: the held-out windows do not fill one batch.
        """
        size, available = num_microbatches * microbatch_size, self.held_out_windows.size
        if available < size:
            raise UserError(
                f"{available} sequences of {self.seq_len} tokens are held out, and one evaluation "
                f"batch takes {size} ({num_microbatches} microbatches of {microbatch_size}); raise "
                "data.eval_fraction, or lower data.seq_len or schedule.num_microbatches"
            )
        full = min(num_batches, available // size)
        windows = self.windows(self.held_out_windows[: full * size])
        return tuple(_as_batch(part, num_microbatches) for part in np.split(windows, full))


def make_data(corpus: Corpus, *, seq_len: int, eval_fraction: float, seed: int) -> SequenceData:
    """Cut a corpus into sequences, hold some out, and fix the order of the others.

    Args:
      corpus: what `load_corpus` returned.
      seq_len: tokens of one sequence.
      eval_fraction: part of the windows to hold out, in (0, 0.5].
      seed: seed of the order, in [0, 2**32).

    Raises:
      UserError: the sequence is longer than the data, nothing would be held out, or a number is out
        of its range.

    Example:
      >>> data = make_data(load_corpus("stdlib"), seq_len=1024, eval_fraction=0.05, seed=0)
    """
    if not 0 < eval_fraction <= 0.5:
        raise UserError(f"data.eval_fraction={eval_fraction} is not in (0, 0.5]; use 0.05, say")
    if not 0 <= seed < 2**32:
        raise UserError(f"data.seed={seed} is not in [0, 2**32); use a number in that range")
    if seq_len < 1:
        raise UserError(f"data.seq_len={seq_len}; a sequence has 1 token at least")
    num_windows = corpus.tokens.size // (seq_len + 1)
    num_held_out = int(num_windows * eval_fraction)
    if num_windows < 1:
        raise UserError(
            f"data.seq_len={seq_len} needs {seq_len + 1} tokens and the data has "
            f"{corpus.tokens.size}; use data.seq_len<{corpus.tokens.size} or more text"
        )
    if num_held_out < 1:
        raise UserError(
            f"data.eval_fraction={eval_fraction} of {num_windows} sequences of {seq_len} tokens is "
            "less than 1 held-out sequence; raise data.eval_fraction, lower data.seq_len or add "
            "text"
        )
    train, held_out = split_windows(num_windows, num_held_out)
    order = grain.MapDataset.range(train.size).seed(seed).shuffle().repeat()
    return SequenceData(corpus, seq_len, eval_fraction, seed, train, held_out, order)


def split_windows(
    num_windows: int, num_held_out: int
) -> tuple[Int64[np.ndarray, " num_train"], Int64[np.ndarray, " num_held_out"]]:
    """Window indices for training (ascending) and held out (going round the blocks).

    Example:
      >>> split_windows(10, 2)  # two blocks of five, the last window of each held out
      (array([0, 1, 2, 3, 5, 6, 7, 8]), array([4, 9]))
    """
    num_blocks = min(NUM_BLOCKS, num_held_out)
    edges = np.arange(num_blocks + 1)
    block_ends = edges[1:] * num_windows // num_blocks
    sizes = np.diff(edges * num_held_out // num_blocks)
    # turn t takes window t of the held-out tail of every block that has so many
    tails = [
        end - size + turn
        for turn in range(int(sizes.max()))
        for end, size in zip(block_ends, sizes, strict=True)
        if turn < size
    ]
    held_out = np.array(tails, np.int64)
    return np.setdiff1d(np.arange(num_windows), held_out), held_out


def _as_batch(windows: Int32[np.ndarray, "n window"], num_microbatches: int) -> Batch:
    shaped = windows.reshape(num_microbatches, -1, windows.shape[-1])
    return Batch(np.ascontiguousarray(shaped[..., :-1]), np.ascontiguousarray(shaped[..., 1:]))
