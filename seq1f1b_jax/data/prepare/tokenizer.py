"""The tokenizer of a job: the one that it names, or one trained on its sources."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.documents import read_documents
from seq1f1b_jax.data.prepare.job import AS_TEXT, DEFAULT_KEY, PrepareJob
from seq1f1b_jax.data.prepare.partial import JOURNAL
from seq1f1b_jax.data.prepare.pieces import cut_text
from seq1f1b_jax.data.prepare.portions import Portion, cut_files
from seq1f1b_jax.data.prepare.readers.sources import InputFile
from seq1f1b_jax.data.tokenizer import Tokenizer, load_tokenizer
from seq1f1b_jax.data.tokenizer.train import MIN_VOCAB_SIZE, check_vocab_size, train_on_texts

TRAIN_BYTES = 100_000_000
"""Bytes of text to train a tokenizer on, sampled evenly from all sources."""
TEXT_PER_BYTE = 4
"""Assumed bytes of text per byte of a compressed file."""


def named_tokenizer(job: PrepareJob) -> Tokenizer | None:
    """The tokenizer that a job names; None: it asks to train one.

    Raises:
      UserError: the tokenizer cannot be loaded, has no special tokens to keep, or cannot have the
        size asked for.
    """
    if job.train_bpe is not None:
        check_vocab_size(job.train_bpe)
        return None
    tokenizer = load_tokenizer(job.tokenizer, eos=job.eos)
    if job.specials != AS_TEXT and not tokenizer.special_names:
        raise UserError(
            f"--special-tokens {job.specials}: {job.tokenizer} has no special tokens; leave it out"
        )
    return tokenizer


def train_on_sources(
    job: PrepareJob, files: Sequence[InputFile], partial: Path, say: Callable[[str], None]
) -> Tokenizer:
    """Train a BPE on portions from all over the sources, or load what an earlier run trained.

    Args:
      job: what to prepare.
      files: of its sources.
      partial: where an earlier run may have left its tokenizer.
      say: called with a line about how much text it is trained on.

    Raises:
      UserError: a document that cannot be read.
    """
    if (partial / JOURNAL).exists():  # written only after the tokenizer was saved
        return load_tokenizer(partial)
    total = sum(file.num_bytes * (TEXT_PER_BYTE if file.compression else 1) for file in files)
    every = -(-total // TRAIN_BYTES) or 1
    part = "all" if every == 1 else f"one in {every} parts"
    say(
        f"training a tokenizer of {job.train_bpe} tokens on {part} of "
        f"{sum(file.num_bytes for file in files):,} bytes"
    )
    key = job.key or DEFAULT_KEY
    portions = cut_files(files, key=key, separator=job.separator, can_cut_text=True)
    with closing(portions):
        return train_on_texts(_texts(job, islice(portions, 0, None, every)), job.train_bpe)


def _texts(job: PrepareJob, portions: Iterable[Portion]) -> Iterator[str]:
    """Documents to train on, long ones in pieces: the words of a document take far more memory."""
    cutter = train_on_texts([], MIN_VOCAB_SIZE)  # splits words as the trained tokenizer will
    for portion in portions:
        for text in read_documents(
            portion, key=job.key or DEFAULT_KEY, separator=job.separator
        ):
            if not isinstance(text, UserError):
                yield from cut_text(cutter, text)
            elif not job.skip_bad:
                raise text
