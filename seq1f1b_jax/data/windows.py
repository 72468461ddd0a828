"""Windows: the corpus cut every `seq_len + 1` tokens, regardless of document boundaries.

Windows do not overlap, and an incomplete last window is dropped. The first `seq_len` tokens of a
window are the inputs, the last `seq_len` the targets.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.corpus import Corpus
from seq1f1b_jax.data.sequences import Batch, SequenceData, make_split
from seq1f1b_jax.data.visible import visible_in_window


@dataclass(frozen=True, eq=False)
class WindowData(SequenceData):
    """Sequences that are windows; a query sees every key up to its own position."""

    def sequences(self, indices: Int64[np.ndarray, " n"]) -> Batch:
        """Windows by index, as inputs and targets of shape `[n, seq_len]`."""
        picked = self._rows(self.corpus.tokens)[indices].astype(np.int32)
        targets = np.ascontiguousarray(picked[:, 1:])
        if self.corpus.loss_mask is not None:
            targets[self._rows(self.corpus.loss_mask)[indices, 1:] == 0] = -1
        return Batch(np.ascontiguousarray(picked[:, :-1]), targets)

    def _rows(self, array: UInt[np.ndarray, " num_tokens"]) -> UInt[np.ndarray, "windows window"]:
        window = self.seq_len + 1
        return array[: array.size // window * window].reshape(-1, window)

    def mean_visible_keys(self, *, window: int | None = None) -> Float64[np.ndarray, " seq_len"]:
        """`i + 1` keys at position i, at most `window`."""
        return visible_in_window(np.arange(self.seq_len) + 1.0, window)

    @property
    def fill_rate(self) -> float:
        """Every position holds a token."""
        return 1.0


def make_windows(
    corpus: Corpus, *, seq_len: int, eval_fraction: float, seed: int
) -> WindowData:
    """Cut a corpus into windows.

    Raises:
      UserError: a window is longer than the data, or nothing would be held out.
    """
    num_windows = corpus.tokens.size // (seq_len + 1)
    if num_windows < 1:
        raise UserError(
            f"data.seq_len={seq_len} needs {seq_len + 1} tokens and the data has "
            f"{corpus.tokens.size}; use data.seq_len<{corpus.tokens.size} or more text"
        )
    split = make_split(num_windows, eval_fraction=eval_fraction, seed=seed, seq_len=seq_len)
    return WindowData(corpus, seq_len, eval_fraction, seed, split)
