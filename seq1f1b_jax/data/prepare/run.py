"""From sources to a token folder: find, cut, encode, write, name."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.folder import META, VERSION, Meta, read_meta
from seq1f1b_jax.data.prepare.documents import read_documents
from seq1f1b_jax.data.prepare.encode import Reading, encode_all
from seq1f1b_jax.data.prepare.partial import JOURNAL, Totals, Writer, open_partial
from seq1f1b_jax.data.prepare.portions import PORTION_BYTES, Portion, cut_files
from seq1f1b_jax.data.prepare.sources import TEXT, InputFile, find_files
from seq1f1b_jax.data.text import check_text
from seq1f1b_jax.data.tokenizer import BYTES, TOKENIZER, Tokenizer, load_tokenizer

TRAIN_BYTES = 100_000_000  # of text that a tokenizer is trained on, spread over all of it
LARGEST_UINT16_VOCAB = 1 << 16


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
      sources: files, folders or `stdlib`.
      to: the token folder to make.
      tokenizer: what `load_tokenizer` takes.
      train_bpe: tokens of a BPE to train on the sources instead; None: none.
      eos: the token behind a document; None: what the tokenizer's files say.
      key: field of JSONL, or column of parquet, that holds the text.
      separator: line between the documents of a text file; None: a file is a document.
      extensions: of folders only files whose names end so; none: all.
      skip_bad: leave documents out that cannot be read, and count them.
      processes: how many encode.
    """

    sources: Sequence[str]
    to: Path
    tokenizer: str = BYTES
    train_bpe: int | None = None
    eos: str | None = None
    key: str = "text"
    separator: str | None = None
    extensions: Sequence[str] = ()
    skip_bad: bool = False
    processes: int = 1


def prepare(
    job: Job,
    *,
    say: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Meta:
    """Make a token folder, or continue to; nothing is done where it is there already.

    Args:
      job: what to prepare.
      say: told what a user should know, a line at a time.
      advance: told bytes of input that are finished, and all of them.

    Raises:
      UserError: bad input, or a folder with something else in it.
    """
    if job.to.name in ("", ".."):
        raise UserError(f"--to {job.to} names no new folder; give one, such as --to tokens")
    partial = job.to.with_name(job.to.name + ".partial")
    tokenizer = _given_tokenizer(job)
    files = find_files(
        job.sources, extensions=job.extensions, leave_out=(job.to, partial)
    )
    fingerprint = _fingerprint(job, files, tokenizer)
    if (meta := _prepared(job.to, fingerprint)) is not None:
        say(f"{job.to} is prepared already, from the same inputs with the same settings")
        return meta
    with open_partial(partial, fingerprint, say=say):
        tokenizer = tokenizer or _trained(job, files, partial, say)
        tokenizer.save(partial)
        return _fill(job, files, tokenizer, partial, fingerprint, say, advance)


def _fill(
    job: Job, files: Sequence[InputFile], tokenizer: Tokenizer, partial: Path, fingerprint: str,
    say: Callable[[str], None], advance: Callable[[int, int], None],
) -> Meta:
    """Write all tokens that are missing in a partial folder, and give it its name."""
    files, bad = _readable(job, files, can_cut_text=tokenizer.can_cut_text)
    portions = cut_files(files, separator=job.separator, can_cut_text=tokenizer.can_cut_text)
    reading = _reading(job, tokenizer, partial)
    with Writer(partial, reading.token_dtype) as writer:
        if writer.totals.num_portions:
            say(f"{writer.totals.num_portions} of {len(portions)} portions were finished before")
        _write(writer, portions, tokenizer, reading, job.processes, advance)
        meta = _meta(writer.totals, tokenizer, reading, fingerprint, bad)
        if meta.num_skipped:
            first = bad[0] if bad else writer.totals.first_skipped
            say(f"left out {meta.num_skipped}, the first: {first}")
        return writer.commit(job.to, meta)


def _given_tokenizer(job: Job) -> Tokenizer | None:
    """The one that is named; None: it will be trained."""
    if job.train_bpe is None:
        return load_tokenizer(job.tokenizer, eos=job.eos)
    from seq1f1b_jax.data.tokenizer_train import check_vocab_size

    check_vocab_size(job.train_bpe)
    return None


def _fingerprint(job: Job, files: Sequence[InputFile], tokenizer: Tokenizer | None) -> str:
    """Hash of all that the tokens depend on; not of the number of processes."""
    made = f"train {job.train_bpe}" if tokenizer is None else [tokenizer.sha256, tokenizer.eos]
    inputs = [[str(f.path.resolve()), f.kind, f.num_bytes, f.changed] for f in files]
    settings = [VERSION, PORTION_BYTES, made, job.key, job.separator, job.skip_bad]
    return hashlib.sha256(json.dumps([settings, inputs]).encode()).hexdigest()


def _prepared(to: Path, fingerprint: str) -> Meta | None:
    """What is there already, if it is the same; None: nothing.

    Raises:
      UserError: something else is.
    """
    if not to.exists() or to.is_dir() and not any(to.iterdir()):
        return None
    meta = read_meta(to / META) if (to / META).is_file() else None
    if meta is None or meta.fingerprint != fingerprint:
        what = "files that prepare did not write" if meta is None else "other data, or other tokens"
        raise UserError(f"{to} holds {what}; nothing is overwritten: give another --to")
    return meta


def _trained(
    job: Job, files: Sequence[InputFile], partial: Path, say: Callable[[str], None]
) -> Tokenizer:
    """Train a BPE on portions from all over the sources, or take what an earlier run trained."""
    from seq1f1b_jax.data.tokenizer_train import train_on_texts

    if (partial / JOURNAL).exists():  # which is begun after the tokenizer was saved
        return load_tokenizer(partial)
    portions = cut_files(files, separator=job.separator, can_cut_text=True)
    total = sum(portion.num_bytes for portion in portions)
    chosen = portions[:: -(-total // TRAIN_BYTES) or 1]
    say(
        f"training a tokenizer of {job.train_bpe} tokens on "
        f"{sum(portion.num_bytes for portion in chosen):,} of {total:,} bytes"
    )
    return train_on_texts(_texts(job, chosen), job.train_bpe)


def _texts(job: Job, portions: Sequence[Portion]) -> Iterator[str]:
    for portion in portions:
        for text in read_documents(portion, key=job.key, separator=job.separator):
            if not isinstance(text, UserError):
                yield text
            elif not job.skip_bad:
                raise text


def _readable(
    job: Job, files: Sequence[InputFile], *, can_cut_text: bool
) -> tuple[list[InputFile], list[str]]:
    """Files to read, and what is wrong with text files that were left out whole.

    A document of several portions is skipped by looking at all of it before its first one is
    written; every other fault is found where the document is read.
    """
    if not job.skip_bad or job.separator is not None or not can_cut_text:
        return list(files), []
    good, faults = [], []
    for file in files:
        fault = _fault(file) if file.kind == TEXT and file.num_bytes > PORTION_BYTES else None
        if fault is None:
            good.append(file)
        else:
            faults.append(fault)
    return good, faults


def _fault(file: InputFile) -> str | None:
    try:
        check_text(file.path, np.memmap(file.path, np.uint8, mode="r").data)
    except UserError as error:
        return str(error)
    return None


def _reading(job: Job, tokenizer: Tokenizer, partial: Path) -> Reading:
    return Reading(
        tokenizer=BYTES if tokenizer.sha256 == BYTES else str(partial),
        token_dtype="uint16" if tokenizer.vocab_size <= LARGEST_UINT16_VOCAB else "uint32",
        key=job.key, separator=job.separator, skip_bad=job.skip_bad,
    )


def _write(
    writer: Writer, portions: Sequence[Portion], tokenizer: Tokenizer, reading: Reading,
    processes: int, advance: Callable[[int, int], None],
) -> None:
    """Encode what is left, and append it."""
    total = sum(portion.num_bytes for portion in portions)
    left = portions[writer.totals.num_portions :]
    done = total - sum(portion.num_bytes for portion in left)
    advance(done, total)
    encoded = encode_all(left, tokenizer, reading, processes=min(processes, max(1, len(left))))
    with closing(encoded):
        for portion, part in zip(left, encoded, strict=True):
            writer.add(portion, part)
            done += portion.num_bytes
            advance(done, total)


def _meta(
    totals: Totals, tokenizer: Tokenizer, reading: Reading, fingerprint: str, bad: Sequence[str]
) -> Meta:
    skipped = totals.num_skipped + len(bad)
    if not totals.num_tokens:
        raise UserError(
            f"0 tokens: {totals.num_empty} documents are empty and {skipped} cannot be read; give "
            "sources with text in them"
        )
    return Meta(
        version=VERSION, token_dtype=reading.token_dtype, vocab_size=tokenizer.vocab_size,
        num_tokens=totals.num_tokens, num_documents=totals.num_documents,
        num_bytes=totals.num_bytes, sha256="",
        tokenizer=BYTES if reading.tokenizer == BYTES else TOKENIZER, eos=tokenizer.eos,
        num_empty=totals.num_empty, num_skipped=skipped, fingerprint=fingerprint,
    )
