"""Text in, batches out: tokenizers, corpora of tokens, and their sequences by step index.

load_corpus   text, a `.bin` or a token folder as one array of tokens
make_data     the corpus as sequences, some held out, the rest in a seeded order
make_mixture  several of them in the ratio of their weights
.batch(k)     the batch of step k: a function of (corpus, seed, k) alone
"""

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.corpus import Corpus, load_corpus
from seq1f1b_jax.data.mixture import MixedData, make_mixture
from seq1f1b_jax.data.packed import PackedData, make_packed
from seq1f1b_jax.data.prefetch import Prefetcher
from seq1f1b_jax.data.sequences import Batch, SequenceData
from seq1f1b_jax.data.tokenizer import Tokenizer, load_tokenizer, train_bpe
from seq1f1b_jax.data.visible import mean_visible_keys
from seq1f1b_jax.data.windows import WindowData, make_windows

__all__ = [
    "Batch",
    "Corpus",
    "MixedData",
    "PackedData",
    "Prefetcher",
    "SequenceData",
    "Tokenizer",
    "WindowData",
    "load_corpus",
    "load_tokenizer",
    "make_data",
    "make_mixture",
    "mean_visible_keys",
    "train_bpe",
]


def make_data(
    corpus: Corpus,
    *,
    seq_len: int,
    eval_fraction: float,
    seed: int,
    packing: str = "windows",
    long_documents: str = "split",
) -> SequenceData:
    """Cut a corpus into sequences, hold some out, and fix the order of the others.

    Args:
      corpus: what `load_corpus` returned.
      seq_len: tokens per sequence.
      eval_fraction: fraction of the sequences to hold out, in (0, 0.5].
      seed: seed of the order, in [0, 2**32).
      packing: `windows` ignores document boundaries, `documents` packs whole documents.
      long_documents: with packing `documents`: `split` those longer than `seq_len`, or `drop` them.

    Raises:
      UserError: the data is shorter than a sequence, nothing would be held out, the corpus has no
        document index, or a setting is out of range.

    Example:
      >>> from seq1f1b_jax.data import load_corpus, make_data
      >>> data = make_data(load_corpus("stdlib"), seq_len=1024, eval_fraction=0.05, seed=0)
      >>> data.batch(0, num_microbatches=2, microbatch_size=1).tokens.shape
      (2, 1, 1024)
    """
    if not 0 < eval_fraction <= 0.5:
        raise UserError(f"data.eval_fraction={eval_fraction} is not in (0, 0.5]; use 0.05, say")
    if not 0 <= seed < 2**32:
        raise UserError(f"data.seed={seed} is not in [0, 2**32); use a number in that range")
    if not 1 <= seq_len < 2**31:
        raise UserError(f"data.seq_len={seq_len}; a sequence has 1 token at least, and below 2**31")
    sizes = {"seq_len": seq_len, "eval_fraction": eval_fraction, "seed": seed}
    if packing == "windows":
        return make_windows(corpus, **sizes)
    if packing == "documents":
        return make_packed(corpus, **sizes, long_documents=long_documents)
    raise UserError(f"data.packing={packing}; it must be windows or documents")
