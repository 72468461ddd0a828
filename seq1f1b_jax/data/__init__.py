"""Text in, batches out: tokenizers, corpora of tokens, and their sequences by step index."""

from seq1f1b_jax.data.corpus import Corpus, load_corpus
from seq1f1b_jax.data.make import make_data
from seq1f1b_jax.data.packed import PackedData
from seq1f1b_jax.data.prefetch import Prefetcher
from seq1f1b_jax.data.sequences import Batch, SequenceData
from seq1f1b_jax.data.tokenizer import Tokenizer, load_tokenizer, train_bpe
from seq1f1b_jax.data.visible import mean_visible_keys
from seq1f1b_jax.data.windows import WindowData

__all__ = [
    "Batch",
    "Corpus",
    "PackedData",
    "Prefetcher",
    "SequenceData",
    "Tokenizer",
    "WindowData",
    "load_corpus",
    "load_tokenizer",
    "make_data",
    "mean_visible_keys",
    "train_bpe",
]
