"""Corpora of small documents, and obvious twins of what packs them."""

import numpy as np

from seq1f1b_jax.data import Corpus, make_data


def corpus_of(lengths):
    """Documents of these lengths; token t is at position t, so a token tells where it came from."""
    documents = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(documents[-1], dtype=np.uint32)
    return Corpus(tokens, tokens.size + 1, "prepared", "0", 1, documents)


def packed(lengths, seq_len, **settings):
    settings = {"eval_fraction": 0.5, "seed": 0, "packing": "documents", **settings}
    return make_data(corpus_of(lengths), seq_len=seq_len, **settings)


def slow_best_fit(lengths, seq_len):
    """Rooms left, sorted: longest first, each into the fullest sequence that has room."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else seq_len) - length)
    return sorted(rooms)


def slow_first_fit(lengths, seq_len):
    """Number of sequences when each piece goes into the first one with room."""
    rooms = []
    for length in lengths:
        at = next((at for at, room in enumerate(rooms) if room >= length), len(rooms))
        rooms[at:] = rooms[at:] or [seq_len]
        rooms[at] -= length
    return len(rooms)
