"""A tokenizer of one's own, trained on what is prepared."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.job import DEFAULT_KEY, Job
from seq1f1b_jax.data.prepare.partial import JOURNAL
from seq1f1b_jax.data.prepare.portions import Portion, cut_files
from seq1f1b_jax.data.prepare.readers.documents import read_documents
from seq1f1b_jax.data.prepare.readers.pieces import cut_text
from seq1f1b_jax.data.prepare.readers.sources import InputFile
from seq1f1b_jax.data.tokenizer import Tokenizer, load_tokenizer
from seq1f1b_jax.data.tokenizer.train import MIN_VOCAB_SIZE, train_on_texts

TRAIN_BYTES = 100_000_000  # of text that a tokenizer is trained on, spread over all of it
PACKED = 4  # times as many bytes are in a packed text, about


def train_on_sources(
    job: Job, files: Sequence[InputFile], partial: Path, say: Callable[[str], None]
) -> Tokenizer:
    """Train a BPE on portions from all over the sources, or take what an earlier run trained.

    Args:
      job: what to prepare.
      files: of its sources.
      partial: where an earlier run may have left its tokenizer.
      say: told on how much it is trained.

    Raises:
      UserError: a document that cannot be read.
    """
    if (partial / JOURNAL).exists():  # which is begun after the tokenizer was saved
        return load_tokenizer(partial)
    total = sum(file.num_bytes * (PACKED if file.packing else 1) for file in files)
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


def _texts(job: Job, portions: Iterable[Portion]) -> Iterator[str]:
    """Documents to train on, long ones in pieces: a document's words take far more than itself."""
    cutter = train_on_texts([], MIN_VOCAB_SIZE)  # its words are those of what comes of the texts
    for portion in portions:
        for text in read_documents(
            portion, key=job.key or DEFAULT_KEY, separator=job.separator
        ):
            if not isinstance(text, UserError):
                yield from cut_text(cutter, text)
            elif not job.skip_bad:
                raise text
