"""The bigram model on the targets that the transformer is evaluated on.

It is the bar that a language model has to clear: how well the previous token alone predicts the
next.

    p(b | a) = (count(a, b) + strength * p(b)) / (count(a, *) + strength)
    p(b)     = (count(*, b) + 1) / (count(*, *) + vocab_size)

Counts come from the training sequences, so the model is fitted on exactly the pairs (input, target)
that the transformer trains on: none crosses a document boundary. The unigram prior keeps large
vocabularies in bounds; on the standard library's bytes, strengths from 0.1 to 100 move the result
by less than 0.002 nats.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from seq1f1b_jax.data import Batch, SequenceData

DENSE_PAIRS = 1 << 22


def bigram_loss(
    data: SequenceData,
    held_out: Sequence[Batch],
    *,
    prior_strength: float = 10.0,
    max_tokens: int = 1 << 28,
) -> float:
    """Mean negative log-likelihood of `held_out` in nats per target, under a bigram model.

    0 where there is no target, as `HeldOut.mean`.

    Args:
      data: the training sequences to fit on.
      held_out: the batches that the transformer is evaluated on; every target is scored, except
        those below 0.
      prior_strength: weight of the unigram prior, in counts.
      max_tokens: fit on at most this many training tokens, the first ones of the corpus.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import Corpus, make_data
      >>> corpus = Corpus(np.arange(2000) % 4, 4, "tokens", "0", 1)  # 0 1 2 3 0 1 2 3 ...
      >>> data = make_data(corpus, seq_len=16, eval_fraction=0.1, seed=0)
      >>> held_out = data.held_out(5, num_microbatches=2, microbatch_size=1)
      >>> bigram_loss(data, held_out, prior_strength=1e-9) < 1e-6
      True
    """
    vocab_size = data.corpus.vocab_size
    scored = np.concatenate([_number(*_pairs(batch), vocab_size) for batch in held_out])
    if not scored.size:  # documents of one token each
        return 0.0
    keys, times = np.unique(scored, return_counts=True)
    pair_counts, first_counts, next_counts = _count(data, keys, max_tokens)
    first, following = keys // vocab_size, keys % vocab_size
    prior = (next_counts[following] + 1) / (next_counts.sum() + vocab_size)
    joint = pair_counts + prior_strength * prior
    log_likelihood = np.log(joint) - np.log(first_counts[first] + prior_strength)
    return float(-(times * log_likelihood).sum() / times.sum())


def _pairs(batch: Batch) -> tuple[Int32[np.ndarray, " pairs"], Int32[np.ndarray, " pairs"]]:
    """The tokens that have a target, and their targets."""
    scored = batch.targets >= 0
    return batch.tokens[scored], batch.targets[scored]


def _number(
    first: Int32[np.ndarray, " pairs"], following: Int32[np.ndarray, " pairs"], vocab_size: int
) -> Int64[np.ndarray, " pairs"]:
    """Each pair (a, b) as the number `a * vocab_size + b`."""
    return first.astype(np.int64) * vocab_size + following


def _count(
    data: SequenceData, keys: Int64[np.ndarray, " k"], max_tokens: int
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " v"], Int64[np.ndarray, " v"]]:
    """Counts over the training sequences: of the pairs in `keys`, of first and second tokens."""
    vocab_size = data.corpus.vocab_size
    of_keys = np.zeros(keys.size, np.int64)
    of_first, of_next = np.zeros((2, vocab_size), np.int64)
    dense = vocab_size**2 <= DENSE_PAIRS
    for batch in data.train_blocks(max_tokens):
        first, following = _pairs(batch)
        of_first += np.bincount(first, minlength=vocab_size)
        of_next += np.bincount(following, minlength=vocab_size)
        pairs = _number(first, following, vocab_size)
        if dense:
            of_keys += np.bincount(pairs, minlength=vocab_size**2)[keys]
        else:
            found = np.minimum(np.searchsorted(keys, pairs), keys.size - 1)
            of_keys += np.bincount(found[keys[found] == pairs], minlength=keys.size)
    return of_keys, of_first, of_next
