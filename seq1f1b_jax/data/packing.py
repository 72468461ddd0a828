"""Which pieces of documents share a sequence: best fit, the longest first.

Pieces are taken by decreasing length; each goes into the fullest sequence that still has room for
it, or else into a new one. The result does not depend on a seed.

Sequences with the same room left are interchangeable, and so are pieces of the same length, so both
are handled as groups. Given n pieces of length l, and room r >= l in the tightest group that fits,
one of its sequences takes floor(r / l) pieces in a row, because after each it is the tightest of
all; so ceil(n / floor(r / l)) of them fill up, or the whole group. The work is one step per pair
(length, room) that occurs, not one per piece.
"""

from bisect import bisect_left, insort

import numpy as np
from jaxtyping import Int64

GROUP_PIECES = 1 << 20


def pack(
    lengths: Int64[np.ndarray, " pieces"], seq_len: int, *, group_pieces: int = GROUP_PIECES
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " num_sequences_and_1"]]:
    """Pack pieces into sequences of `seq_len` tokens.

    Args:
      lengths: tokens of each piece, in `[1, seq_len]`.
      seq_len: tokens per sequence.
      group_pieces: consecutive pieces that are packed together; bounds memory, and keeps the pieces
        of a sequence close together on disk.

    Returns:
      The pieces in packed order, and the offset of each sequence in this order, followed by the
      end. Within a sequence pieces ascend; sequences are ordered by their first piece.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data.packing import pack
      >>> pack(np.array([3, 2, 5, 1, 2]), 5)  # 3+2, 5, 2+1
      (array([0, 1, 2, 3, 4]), array([0, 2, 3, 5]))
    """
    orders, sizes = [], []
    for first in range(0, lengths.size, group_pieces):
        order, counts = _in_order(_assign(lengths[first : first + group_pieces], seq_len))
        orders.append(order + first)
        sizes.append(counts)
    bounds = np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64)
    return np.concatenate([np.zeros(0, np.int64), *orders]), bounds


def _in_order(
    sequence_of: Int64[np.ndarray, " pieces"],
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " num_sequences"]]:
    """Pieces sorted by sequence, sequences by first piece; and the pieces per sequence."""
    _, first_piece, inverse = np.unique(sequence_of, return_index=True, return_inverse=True)
    rank = np.empty_like(first_piece)
    rank[np.argsort(first_piece)] = np.arange(first_piece.size)
    ranked = rank[inverse]
    return np.argsort(ranked, kind="stable"), np.bincount(ranked)


def _assign(lengths: Int64[np.ndarray, " pieces"], seq_len: int) -> Int64[np.ndarray, " pieces"]:
    """The sequence of each piece, numbered in the order of opening."""
    by_length = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    sequence_of = np.empty(lengths.size, np.int64)  # sequence of each piece, by decreasing length
    rooms, done = _Rooms(seq_len), 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = done + count
        while done < end:
            done += rooms.fill(length, sequence_of[done:end])
    result = np.empty_like(sequence_of)
    result[by_length] = sequence_of
    return result


class _Rooms:
    """Open sequences, grouped by the room they have left."""

    def __init__(self, seq_len: int):
        self._seq_len = seq_len
        self._opened = 0
        self._sizes: list[int] = []  # distinct rooms, ascending
        self._groups: dict[int, list[np.ndarray]] = {}  # sequences of each, in parts

    def fill(self, length: int, out: Int64[np.ndarray, " pieces"]) -> int:
        """Write the sequences of the first pieces of this length into `out`; return how many."""
        at = bisect_left(self._sizes, length)
        if at == len(self._sizes):
            room, sequences = self._seq_len, self._open(-(-out.size // (self._seq_len // length)))
        else:
            room, sequences = self._sizes[at], self._take(at)
        each = room // length
        full, rest = divmod(min(out.size, each * sequences.size), each)
        used = full + (rest > 0)
        num_placed = full * each + rest
        out[:num_placed] = np.repeat(sequences[:used], each)[:num_placed]
        self._put(room - each * length, sequences[:full])
        self._put(room - rest * length, sequences[full:used])
        self._put(room, sequences[used:])
        return num_placed

    def _open(self, count: int) -> Int64[np.ndarray, " count"]:
        self._opened += count
        return np.arange(self._opened - count, self._opened)

    def _take(self, at: int) -> Int64[np.ndarray, " n"]:
        """Remove part of a group: its sequences are interchangeable."""
        parts = self._groups[self._sizes[at]]
        taken = parts.pop()
        if not parts:
            del self._groups[self._sizes.pop(at)]
        return taken

    def _put(self, room: int, sequences: Int64[np.ndarray, " n"]) -> None:
        if not sequences.size or not room:  # full ones are never needed again
            return
        if room not in self._groups:
            self._groups[room] = []
            insort(self._sizes, room)
        self._groups[room].append(sequences)
