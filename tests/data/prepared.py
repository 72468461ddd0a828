"""What tests of `prepare` share: JSON lines, and the texts of a token folder."""

import json

import numpy as np

from seq1f1b_jax.data import load_corpus


def documents(folder):
    """The texts of a token folder, without their ends."""
    corpus = load_corpus(str(folder))
    tokenizer = corpus.load_tokenizer()
    parts = np.split(corpus.tokens, corpus.documents[1:-1])
    if tokenizer.eos is not None:
        assert all(part[-1] == tokenizer.eos for part in parts)
        parts = [part[:-1] for part in parts]
    return [tokenizer.decode(part.tolist()) for part in parts]


def json_lines(texts, key="text"):
    return "".join(json.dumps({key: text}) + "\n" for text in texts)
