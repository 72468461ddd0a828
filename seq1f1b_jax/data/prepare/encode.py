"""Portions to tokens, in several processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from functools import cache
from itertools import islice
from multiprocessing import connection
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt, UInt8

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.documents import place_of, read_documents
from seq1f1b_jax.data.prepare.loss_mask import Encoder, Encoding
from seq1f1b_jax.data.prepare.portions import Portion
from seq1f1b_jax.data.prepare.readers.fields import CURE, Conversation, Document, Fields
from seq1f1b_jax.data.tokenizer import Tokenizer, load_tokenizer
from seq1f1b_jax.data.tokenizer.chat.template import Refused

AHEAD = 2  # portions per process submitted before they are needed


class Reading(NamedTuple):
    """How documents are read and encoded.

    Attributes:
      tokenizer: argument of `load_tokenizer`.
      token_dtype: `uint16` or `uint32`.
      fields: what makes a document of a record.
      separator: line between the documents of a text file; None: a file is one document.
      skip_bad: leave out, and count, documents that cannot be read.
      specials: whether special tokens spelled in documents are `text`, or `keep` their ids.
      now: what a chat template is told when it asks for the time.
    """

    tokenizer: str
    token_dtype: str
    fields: Fields
    separator: str | None
    skip_bad: bool
    specials: str
    now: datetime


class Encoded(NamedTuple):
    """Tokens of one portion.

    Attributes:
      tokens: of all its documents.
      lengths: tokens of each document, or of the part of it in this portion.
      num_bytes: UTF-8 bytes of its documents.
      num_empty: documents without text, left out.
      num_skipped: unreadable documents, left out.
      first_skipped: what was wrong with the first one left out; empty: none.
      num_special: special tokens spelled in its documents.
      num_refused: conversations whose tokens that count are not certain, left out.
      counted: of each token, 1 if it counts as a target; None: all do.
    """

    tokens: UInt[np.ndarray, " num_tokens"]
    lengths: Int64[np.ndarray, " num_documents"]
    num_bytes: int = 0
    num_empty: int = 0
    num_skipped: int = 0
    first_skipped: str = ""
    num_special: int = 0
    num_refused: int = 0
    counted: UInt8[np.ndarray, " num_tokens"] | None = None


def encode_portion(portion: Portion, tokenizer: Tokenizer, reading: Reading) -> Encoded:
    """Read and encode a portion.

    Raises:
      UserError: a document that cannot be read or encoded, unless `reading.skip_bad`.
    """
    dtype = np.dtype(reading.token_dtype).newbyteorder("<")
    encoder = Encoder(
        tokenizer, dtype, fields=reading.fields, specials=reading.specials, now=reading.now
    )
    found: list[Encoding] = []
    faults: list[UserError] = []
    num_empty = 0
    for document in read_documents(portion, fields=reading.fields, separator=reading.separator):
        read = _encoded(document, encoder, portion)
        if isinstance(read, UserError):
            if not reading.skip_bad:
                raise read
            faults.append(read)
        elif read is None:
            num_empty += 1
        else:
            found.append(read)
    refused = sum(isinstance(fault, Refused) for fault in faults)
    return Encoded(
        np.concatenate([np.zeros(0, dtype), *(part for one in found for part in one.tokens)]),
        np.array([one.num_tokens for one in found], np.int64),
        num_bytes=sum(one.num_bytes for one in found), num_empty=num_empty,
        num_skipped=len(faults) - refused, first_skipped=str(faults[0]) if faults else "",
        num_special=sum(one.num_special for one in found), num_refused=refused,
        counted=_joined([one.counted for one in found]) if encoder.masks else None,
    )


def _encoded(
    document: Document | UserError, encoder: Encoder, portion: Portion
) -> Encoding | UserError | None:
    """The tokens of a document, or what is wrong with it; None if it is empty."""
    if isinstance(document, UserError):
        return document
    try:
        return encoder.encode(document, opens=portion.opens, closes=portion.closes)
    except Refused as error:
        assert isinstance(document, Conversation), "only these are refused"
        return Refused(f"{place_of(portion, document)}: {error}; {CURE}")


def _joined(parts: Sequence[np.ndarray | None]) -> UInt8[np.ndarray, " n"]:
    return np.concatenate([np.zeros(0, np.uint8), *(part for part in parts if part is not None)])


def encode_all(
    portions: Iterable[Portion], tokenizer: Tokenizer, reading: Reading, *, processes: int
) -> Iterator[tuple[Portion, Encoded]]:
    """Encode portions in order, with only a few of them in memory.

    Yields each portion, without its content, and its tokens.

    Args:
      portions: what to encode.
      tokenizer: used if this is the only process; others load `reading.tokenizer`.
      reading: how documents are read.
      processes: number of processes; 1: this one.

    Raises:
      UserError: a document cannot be read, or a process died.
    """
    if processes == 1:
        for portion in portions:
            yield portion._replace(held=None), encode_portion(portion, tokenizer, reading)
        return
    # spawned, not forked: the tokenizer library has threads, which a fork would not copy
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start)
    try:
        yield from _in_order(pool, iter(portions), reading, AHEAD * processes)
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {processes} processes ended by itself, perhaps out of memory; what is "
            "finished is kept: run the same command with fewer --processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, portions: Iterator[Portion], reading: Reading, ahead: int
) -> Iterator[tuple[Portion, Encoded]]:
    pending: deque[tuple[Portion, Future[Encoded]]] = deque()
    while True:
        for portion in islice(portions, ahead - len(pending)):
            future = pool.submit(_encode_here, portion, reading)
            pending.append((portion._replace(held=None), future))
        if not pending:
            return
        portion, future = pending.popleft()
        yield portion, future.result()


def _start() -> None:
    """Leave Ctrl-C to the parent process, and exit when it does, for whatever reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _encode_here(portion: Portion, reading: Reading) -> Encoded:
    return encode_portion(portion, _loaded(reading.tokenizer), reading)


_loaded = cache(load_tokenizer)  # once in each process


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    connection.wait([parent.sentinel])
    os._exit(1)
