"""Text in, batches out: a corpus of tokens, and its sequences by step index."""

from seq1f1b_jax.training.data.corpus import Corpus, load_corpus
from seq1f1b_jax.training.data.sequences import Batch, SequenceData, make_data

__all__ = ["Batch", "Corpus", "SequenceData", "load_corpus", "make_data"]
