"""Packed documents: sequences filled with whole documents that do not attend to each other.

A document longer than a sequence is split into pieces of `seq_len` tokens and a remainder, or
dropped. Pieces are packed once (`packing`); a seed shuffles the finished sequences. The rest of a
sequence is padding: token 0, a separate document, no targets.

    tokens   a a a b b | 0      starts   0 0 0 3 3 5      targets  a a - b - -
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.corpus import Corpus
from seq1f1b_jax.data.packing import pack
from seq1f1b_jax.data.sequences import Batch, SequenceData, make_split
from seq1f1b_jax.data.visible import mean_visible_of_pieces

LONG_DOCUMENTS = ("split", "drop")


@dataclass(frozen=True, eq=False)
class Pieces:
    """Documents, or parts of long ones, in packed order.

    Attributes:
      begins: offset of each piece in the corpus.
      lengths: tokens of each piece.
      ends: whether a piece ends its document.
      bounds: first piece of each sequence, followed by the end.
      num_split: documents that were split.
      num_dropped: documents that were left out.
    """

    begins: Int64[np.ndarray, " pieces"]
    lengths: Int32[np.ndarray, " pieces"]
    ends: Bool[np.ndarray, " pieces"]
    bounds: Int64[np.ndarray, " num_sequences_and_1"]
    num_split: int
    num_dropped: int

    @property
    def num_sequences(self) -> int:
        """Sequences that the pieces fill."""
        return self.bounds.size - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all pieces."""
        return int(self.lengths.sum(dtype=np.int64))


@dataclass(frozen=True, eq=False)
class PackedData(SequenceData):
    """Sequences of packed documents.

    Attributes:
      pieces: the contents of each sequence.
      long_documents: `split` or `drop`: what was done with documents longer than a sequence.
    """

    pieces: Pieces
    long_documents: str

    @property
    def identity(self) -> dict[str, Any]:
        """That of windows, plus the document offsets, which determine the packing."""
        digest = hashlib.sha256(np.ascontiguousarray(self.corpus.documents)).hexdigest()
        packing = {"packing": "documents", "long_documents": self.long_documents}
        return {**super().identity, **packing, "documents_sha256": digest}

    @property
    def fill_rate(self) -> float:
        """Fraction of positions that hold a token of the corpus, not padding."""
        return self.pieces.num_tokens / (self.pieces.num_sequences * self.seq_len)

    def sequences(self, indices: Int64[np.ndarray, " n"]) -> Batch:
        """Sequences by index: tokens, targets and starts of shape `[n, seq_len]`."""
        bounds, size = self.pieces.bounds, (indices.size, self.seq_len)
        counts = bounds[indices + 1] - bounds[indices]
        picked = np.repeat(bounds[indices] - _sums_before(counts), counts) + np.arange(counts.sum())
        lengths = self.pieces.lengths[picked].astype(np.int64)
        # offset of each piece in its sequence, and in the flattened batch
        before, row = _sums_before(lengths), np.repeat(np.arange(indices.size), counts)
        offsets = before - before[_sums_before(counts)][row]
        flat = row * self.seq_len + offsets
        inside = np.arange(lengths.sum()) - np.repeat(before, lengths)
        positions = np.repeat(flat, lengths) + inside
        taken = np.repeat(self.pieces.begins[picked], lengths) + inside
        batch = _padding(offsets, lengths, row, size)
        batch.tokens.reshape(-1)[positions] = self.corpus.tokens[taken]
        # the last token of the corpus has no successor; it ends a document, so -1 overwrites this
        following = np.minimum(taken + 1, self.corpus.tokens.size - 1)
        batch.targets.reshape(-1)[positions] = self.corpus.tokens[following]
        if self.corpus.loss_mask is not None:
            batch.targets.reshape(-1)[positions[self.corpus.loss_mask[following] == 0]] = -1
        batch.targets.reshape(-1)[(flat + lengths - 1)[self.pieces.ends[picked]]] = -1
        batch.starts.reshape(-1)[positions] = np.repeat(offsets, lengths)
        return batch

    def mean_visible_keys(self, *, window: int | None = None) -> Float64[np.ndarray, " seq_len"]:
        """Mean number of keys visible at each position, over all sequences of the corpus."""
        bounds, lengths = self.pieces.bounds, self.pieces.lengths.astype(np.int64)
        before = np.append(_sums_before(lengths), lengths.sum())
        used = np.diff(before[bounds])  # tokens of each sequence; the rest is padding
        offsets = before[:-1] - np.repeat(before[bounds[:-1]], np.diff(bounds))
        return mean_visible_of_pieces(
            np.concatenate([offsets, used[used < self.seq_len]]),
            np.concatenate([lengths, self.seq_len - used[used < self.seq_len]]),
            num_sequences=used.size, seq_len=self.seq_len, window=window,
        )


def make_packed(
    corpus: Corpus, *, seq_len: int, eval_fraction: float, seed: int, long_documents: str
) -> PackedData:
    """Pack the documents of a corpus.

    Args:
      corpus: tokens with a document index.
      seq_len: tokens per sequence.
      eval_fraction: fraction of the sequences to hold out, in (0, 0.5].
      seed: seed of the order, in [0, 2**32).
      long_documents: `split` or `drop` documents longer than `seq_len`.

    Raises:
      UserError: the corpus has no document index, all documents are too long, or nothing would be
        held out.
    """
    if long_documents not in LONG_DOCUMENTS:
        raise UserError(f"data.long_documents={long_documents}; it must be split or drop")
    if corpus.documents is None:
        raise UserError(
            "data.packing=documents needs to know where documents begin, which a .bin does not "
            "record; give a folder made by python -m seq1f1b_jax.data prepare, or set "
            "data.packing=windows"
        )
    pieces = cut_and_pack(corpus.documents, seq_len, long_documents)
    if not pieces.num_sequences:
        raise UserError(
            f"data.long_documents=drop leaves 0 of {pieces.num_dropped} documents: all are longer "
            f"than data.seq_len={seq_len}; raise that, or set data.long_documents=split"
        )
    split = make_split(
        pieces.num_sequences, eval_fraction=eval_fraction, seed=seed, seq_len=seq_len
    )
    return PackedData(corpus, seq_len, eval_fraction, seed, split, pieces, long_documents)


def cut_and_pack(
    documents: Int64[np.ndarray, " num_documents_and_1"], seq_len: int, long_documents: str
) -> Pieces:
    """Split or drop documents that are too long, and pack the result."""
    starts, lengths = documents[:-1], np.diff(documents)
    long = lengths > seq_len
    num_long = int(long.sum())
    if long_documents == "drop":
        starts, lengths = starts[~long], lengths[~long]
    parts = -(-lengths // seq_len)
    part = np.arange(parts.sum()) - np.repeat(_sums_before(parts), parts)
    begins = np.repeat(starts, parts) + part * seq_len
    left = np.repeat(lengths, parts) - part * seq_len
    sizes = np.minimum(left, seq_len)
    order, bounds = pack(sizes, seq_len)
    dropped = num_long if long_documents == "drop" else 0
    return Pieces(
        begins[order], sizes[order].astype(np.int32), (left <= seq_len)[order], bounds,
        num_split=num_long - dropped, num_dropped=dropped,
    )


def _padding(offsets, lengths, row, size: tuple[int, int]) -> Batch:
    """Sequences of padding only; its `starts` are where their pieces will end."""
    used = np.zeros(size[0], np.int32)
    np.maximum.at(used, row, (offsets + lengths).astype(np.int32))
    starts = np.repeat(used[:, None], size[1], axis=1)
    return Batch(np.zeros(size, np.int32), np.full(size, -1, np.int32), starts)


def _sums_before(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Exclusive prefix sums, `[0, s0, s0 + s1, ...]`."""
    return np.cumsum(sizes) - sizes
