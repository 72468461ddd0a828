"""The tokenizer of a job: the one that it names, or one trained on its sources."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.documents import read_documents
from seq1f1b_jax.data.prepare.job import AS_TEXT, PrepareJob
from seq1f1b_jax.data.prepare.partial import JOURNAL
from seq1f1b_jax.data.prepare.pieces import cut_text
from seq1f1b_jax.data.prepare.portions import Portion, cut_files
from seq1f1b_jax.data.prepare.readers.fields import Answered, Conversation, Document
from seq1f1b_jax.data.prepare.readers.sources import InputFile
from seq1f1b_jax.data.tokenizer import BYTES, Tokenizer, load_tokenizer
from seq1f1b_jax.data.tokenizer.base import Chat
from seq1f1b_jax.data.tokenizer.chat.found import DEFAULT, read_template
from seq1f1b_jax.data.tokenizer.chat.template import load_template
from seq1f1b_jax.data.tokenizer.train import MIN_VOCAB_SIZE, check_vocab_size, train_on_texts

TRAIN_BYTES = 100_000_000
"""Bytes of text to train a tokenizer on, sampled evenly from all sources."""
TEXT_PER_BYTE = 4
"""Assumed bytes of text per byte of a compressed file."""


def named_tokenizer(job: PrepareJob) -> Tokenizer | None:
    """The tokenizer that a job names; None: it asks to train one.

    Raises:
      UserError: the tokenizer cannot be loaded, has no special tokens to keep, no chat template,
        or cannot have the size asked for.
    """
    if job.train_bpe is not None:
        check_vocab_size(job.train_bpe)
        return None
    tokenizer = load_tokenizer(job.tokenizer, eos=job.eos)
    if job.messages is not None:
        tokenizer.chat = _chosen_template(tokenizer, job)
    if job.specials not in (None, AS_TEXT) and not tokenizer.special_names:
        raise UserError(
            f"--special-tokens {job.specials}: {job.tokenizer} has no special tokens; leave it out"
        )
    return tokenizer


def _chosen_template(tokenizer: Tokenizer, job: PrepareJob) -> Chat:
    """The tokenizer's templates, with the one that the job names as the default."""
    templates, name = tokenizer.chat.templates, job.chat_template or DEFAULT
    if job.tokenizer == BYTES:
        raise UserError(
            f"--messages {job.messages}: bytes have no special tokens to tell turns apart; give "
            "--tokenizer of the model"
        )
    if name in templates:
        text = templates[name]
    elif job.chat_template is not None and Path(name).expanduser().is_file():
        text = read_template(Path(name).expanduser())
    elif job.chat_template is not None:
        known = ", ".join(templates) or "none"
        raise UserError(
            f"--chat-template {name} is no file, and no template of {job.tokenizer}, which has: "
            f"{known}; correct it"
        )
    else:
        raise UserError(
            f"--messages {job.messages}: {job.tokenizer} has no chat template; give one with "
            "--chat-template FILE, or --tokenizer of a model that has one"
        )
    chat = Chat({**templates, DEFAULT: text}, tokenizer.chat.tokens)
    load_template(chat, now=datetime.now())  # refused here, before anything is written
    return chat


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
    portions = cut_files(
        files, fields=job.fields, separator=job.separator, can_cut_text=True
    )
    with closing(portions):
        return train_on_texts(_texts(job, islice(portions, 0, None, every)), job.train_bpe)


def _texts(job: PrepareJob, portions: Iterable[Portion]) -> Iterator[str]:
    """Documents to train on, long ones in pieces: the words of a document take far more memory."""
    cutter = train_on_texts([], MIN_VOCAB_SIZE)  # splits words as the trained tokenizer will
    for portion in portions:
        for document in read_documents(portion, fields=job.fields, separator=job.separator):
            if not isinstance(document, UserError):
                for text in _texts_of(document):
                    yield from cut_text(cutter, text)
            elif not job.skip_bad:
                raise document


def _texts_of(document: Document) -> tuple[str, ...]:
    assert not isinstance(document, Conversation), "no template comes with a trained tokenizer"
    return tuple(document) if isinstance(document, Answered) else (document,)
