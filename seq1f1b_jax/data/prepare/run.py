"""From sources to a token folder: find, cut, encode, write, name."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.folder import MASKED_VERSION, META, UNFINISHED, VERSION, Meta, read_meta
from seq1f1b_jax.data.prepare.encode import Reading, encode_all
from seq1f1b_jax.data.prepare.job import (
    AS_TEXT,
    PrepareJob,
    check_extensions,
    check_kinds,
)
from seq1f1b_jax.data.prepare.partial import TokenWriter, Totals, open_partial
from seq1f1b_jax.data.prepare.pieces import PIECE_CHARACTERS
from seq1f1b_jax.data.prepare.portions import PORTION_BYTES, Portion, cut_files
from seq1f1b_jax.data.prepare.readers.fields import TEXT as ONE_TEXT
from seq1f1b_jax.data.prepare.readers.sources import TEXT, InputFile, find_files
from seq1f1b_jax.data.prepare.readers.streams import open_stream
from seq1f1b_jax.data.prepare.tokenizer import named_tokenizer, train_on_sources
from seq1f1b_jax.data.text import BLOCK_BYTES, check_blocks, real_path
from seq1f1b_jax.data.tokenizer import BYTES, TOKENIZER, Tokenizer
from seq1f1b_jax.data.tokenizer.chat.found import DEFAULT

LARGEST_UINT16_VOCAB = 1 << 16


def prepare(
    job: PrepareJob,
    *,
    say: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Meta:
    """Make a token folder, or continue an earlier run; does nothing if the folder is complete.

    Args:
      job: what to prepare.
      say: called with each line that the user should see.
      advance: called with the input bytes finished so far, and in all.

    Raises:
      UserError: bad input, or the folder holds something else.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "a.json").write_text('[{"text": "one"}, {"text": "two"}]')
      ...     meta = prepare(PrepareJob([folder + "/a.json"], Path(folder, "tokens")))
      >>> meta.num_documents, meta.num_tokens
      (2, 8)
    """
    if job.to.name in ("", ".."):
        raise UserError(f"--to {job.to} names no new folder; give one, such as --to tokens")
    if job.to.is_symlink():  # the target gets the tokens, the link stays
        job = replace(job, to=real_path(job.to))
    partial = job.to.with_name(job.to.name + UNFINISHED)
    tokenizer = named_tokenizer(job)
    check_extensions(job)
    files, left_out = find_files(
        job.sources, extensions=job.extensions, leave_out=(job.to, partial), hub=job.hub
    )
    reasons = [f"{count:,} x {reason}" for reason, count in left_out.items() if count]
    if reasons:
        say(f"not taken from folders: {', '.join(reasons)}")
    check_kinds(job, files)
    fingerprint = _fingerprint(job, files, tokenizer)
    if (meta := _prepared(job.to, fingerprint)) is not None:
        say(f"{job.to} is prepared already, from the same inputs with the same settings")
        return meta
    with open_partial(partial, fingerprint, say=say) as began:
        tokenizer = tokenizer or train_on_sources(job, files, partial, say)
        tokenizer.save(partial)
        reading = _reading(job, tokenizer, partial, began)
        return _fill(job, files, tokenizer, reading, partial, fingerprint, say, advance)


def _fill(
    job: PrepareJob, files: Sequence[InputFile], tokenizer: Tokenizer, reading: Reading,
    partial: Path, fingerprint: str, say: Callable[[str], None],
    advance: Callable[[int, int], None],
) -> Meta:
    """Write the tokens that a partial folder still lacks, and rename it."""
    files, bad = _readable(job, files, can_cut_text=tokenizer.can_cut_text)
    if not tokenizer.can_cut_text and any(f.num_bytes > PIECE_CHARACTERS for f in files):
        say(
            "this tokenizer may merge across words, so every document is encoded whole: one takes "
            "over a hundred times its bytes of memory"
        )
    portions = cut_files(
        files, fields=reading.fields, separator=job.separator, can_cut_text=tokenizer.can_cut_text
    )
    masked = reading.fields.kind != ONE_TEXT
    with TokenWriter(partial, reading.token_dtype, masked=masked) as writer:
        if writer.totals.num_portions:
            say(f"{writer.totals.num_portions} portions were finished before")
        total = sum(file.num_bytes for file in files)
        with closing(portions):
            _write(writer, portions, tokenizer, reading, job.processes, total, advance)
        meta = _meta(writer.totals, tokenizer, reading, fingerprint, bad)
        if left_out := meta.num_skipped + meta.num_refused:
            first = bad[0] if bad else writer.totals.first_skipped
            say(f"left out {left_out}, the first: {first}")
        return writer.commit(job.to, meta)


def _fingerprint(job: PrepareJob, files: Sequence[InputFile], tokenizer: Tokenizer | None) -> str:
    """Hash of everything that the tokens depend on, so not of the number of processes."""
    made = f"train {job.train_bpe}" if tokenizer is None else [tokenizer.sha256, tokenizer.eos]
    inputs = [
        [str(real_path(f.path)), f.kind, f.num_bytes, f.changed, *filter(None, [f.compression])]
        if f.hub is None else [f.kind, *f.hub] for f in files
    ]
    settings = [
        VERSION, PORTION_BYTES, made, job.fields.keys[0], job.separator, job.skip_bad,
        *[job.special_tokens] * (job.special_tokens != AS_TEXT),
    ]
    if job.fields.kind != ONE_TEXT:
        settings.append(list(job.fields))
    if job.messages is not None and tokenizer is not None:
        chat = tokenizer.chat
        settings.append([chat.templates[DEFAULT], sorted(chat.tokens.items())])
    return hashlib.sha256(json.dumps([settings, inputs]).encode()).hexdigest()


def _prepared(to: Path, fingerprint: str) -> Meta | None:
    """The meta.json of a folder made from the same inputs; None: there is no folder.

    Raises:
      UserError: the folder holds something else.
    """
    if not to.exists() or to.is_dir() and not any(to.iterdir()):
        return None
    meta = read_meta(to / META) if (to / META).is_file() else None
    if meta is None or meta.fingerprint != fingerprint:
        what = "files that prepare did not write" if meta is None else "other data, or other tokens"
        raise UserError(f"{to} holds {what}; nothing is overwritten: give another --to")
    return meta


def _readable(
    job: PrepareJob, files: Sequence[InputFile], *, can_cut_text: bool
) -> tuple[list[InputFile], list[str]]:
    """Files to read, and what is wrong with text files that are left out as a whole.

    A document that spans portions is checked as a whole before its first portion is written; every
    other fault is found when the document is read.
    """
    if not job.skip_bad or job.separator is not None or not can_cut_text:
        return list(files), []
    good, faults = [], []
    for file in files:
        long = file.num_bytes > PORTION_BYTES or file.compression
        fault = _fault(file) if file.kind == TEXT and long else None
        if fault is None:
            good.append(file)
        else:
            faults.append(fault)
    return good, faults


def _fault(file: InputFile) -> str | None:
    try:
        with open_stream(file.path, file.compression) as stream:
            blocks = iter(lambda: stream.content.read(BLOCK_BYTES), b"")
            check_blocks(file.path, blocks)
    except UserError as error:
        return str(error)
    return None


def _reading(
    job: PrepareJob, tokenizer: Tokenizer, partial: Path, began: datetime
) -> Reading:
    return Reading(
        tokenizer=BYTES if tokenizer.sha256 == BYTES else str(partial),
        token_dtype="uint16" if tokenizer.vocab_size <= LARGEST_UINT16_VOCAB else "uint32",
        fields=job.fields, separator=job.separator, skip_bad=job.skip_bad,
        specials=job.special_tokens, now=began,
    )


def _write(
    writer: TokenWriter, portions: Iterator[Portion], tokenizer: Tokenizer, reading: Reading,
    processes: int, total: int, advance: Callable[[int, int], None],
) -> None:
    """Encode and append the remaining portions."""
    finished = islice(portions, writer.totals.num_portions)
    done = sum(portion.num_bytes for portion in finished)
    advance(done, total)
    first = list(islice(portions, processes))  # no more processes than portions
    left = chain(first, portions)
    encoded = encode_all(left, tokenizer, reading, processes=max(1, len(first)))
    with closing(encoded):
        for portion, part in encoded:
            writer.add(portion, part)
            done += portion.num_bytes
            advance(done, total)


def _meta(
    totals: Totals, tokenizer: Tokenizer, reading: Reading, fingerprint: str, bad: Sequence[str]
) -> Meta:
    skipped = totals.num_skipped + len(bad)
    if not totals.num_tokens:
        raise UserError(
            f"0 tokens: {totals.num_empty} documents are empty and {skipped} cannot be read"
            + f", {totals.num_refused} have no exact loss mask" * bool(totals.num_refused)
            + "; give sources with text in them"
        )
    masked = reading.fields.kind != ONE_TEXT
    return Meta(
        version=MASKED_VERSION if masked else VERSION, token_dtype=reading.token_dtype,
        vocab_size=tokenizer.vocab_size, num_tokens=totals.num_tokens,
        num_documents=totals.num_documents, num_bytes=totals.num_bytes, sha256="",
        tokenizer=BYTES if reading.tokenizer == BYTES else TOKENIZER, eos=tokenizer.eos,
        num_empty=totals.num_empty, num_skipped=skipped, fingerprint=fingerprint,
        special_tokens=reading.specials, num_special=totals.num_special,
        num_refused=totals.num_refused, loss_on=reading.fields.kind,
        num_counted=totals.num_counted if masked else None,
    )
