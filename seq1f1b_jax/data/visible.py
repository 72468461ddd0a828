"""How many keys a query sees: the cost of attention within documents and sliding windows.

With `starts[i]` the first position of its document, query i sees `i - starts[i] + 1` keys, and at
most w of them with a sliding window of w.
"""

import numpy as np
from jaxtyping import Float64, Int32, Int64, Num


def visible_in_window(
    visible: Num[np.ndarray, "*shape"], window: int | None
) -> Num[np.ndarray, "*shape"]:
    """Limit numbers of keys to a sliding window, if there is one."""
    return visible if window is None else np.minimum(visible, window)


def mean_visible_keys(
    starts: Int32[np.ndarray, "*batch seq_len"], *, window: int | None = None
) -> Float64[np.ndarray, " seq_len"]:
    """Mean number of keys visible at each position of a batch.

    Args:
      starts: first position of each token's document.
      window: sliding-window size; None: no window.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import mean_visible_keys
      >>> mean_visible_keys(np.array([[0, 0, 2, 2], [0, 0, 0, 0]]))
      array([1., 2., 2., 3.])
    """
    seq_len = starts.shape[-1]
    visible = np.arange(seq_len) - starts.reshape(-1, seq_len) + 1
    return visible_in_window(visible, window).mean(axis=0)


def mean_visible_of_pieces(
    offsets: Int64[np.ndarray, " pieces"],
    lengths: Int64[np.ndarray, " pieces"],
    *,
    num_sequences: int,
    seq_len: int,
    window: int | None = None,
) -> Float64[np.ndarray, " seq_len"]:
    """The same from the offsets of pieces in their sequences, without building the sequences.

    A piece of length n at offset o adds a ramp 1, 2, ... at o, o + 1, ... which stops rising after
    w = min(n, window) steps and drops to 0 after its last position. Ramps are summed through their
    differences between positions, which are nonzero only where ramps begin and end:

        sum[i] - sum[i - 1] = pieces that rise at i  -  sum of w over pieces that end at i - 1

    Args:
      offsets: first position of each piece in its sequence.
      lengths: tokens of each piece; padding at the end of a sequence must be given as a piece.
      num_sequences: sequences that the pieces fill.
      seq_len: tokens per sequence.
      window: sliding-window size; None: no window.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data.visible import mean_visible_of_pieces
      >>> sizes = dict(num_sequences=2, seq_len=4)
      >>> mean_visible_of_pieces(np.array([0, 2, 0]), np.array([2, 2, 4]), **sizes)
      array([1., 2., 2., 3.])
    """
    heights = visible_in_window(lengths, window)

    def count(positions, weights=None):
        return np.bincount(positions, weights, minlength=seq_len + 1)[:seq_len]

    rising = np.cumsum(count(offsets) - count(offsets + heights))
    return np.cumsum(rising - count(offsets + lengths, heights)) / num_sequences
