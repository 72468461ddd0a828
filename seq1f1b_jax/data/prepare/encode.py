"""Portions to tokens, in several processes."""

import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from itertools import islice
from multiprocessing import connection
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.documents import read_documents
from seq1f1b_jax.data.prepare.job import KEEP
from seq1f1b_jax.data.prepare.pieces import encode_text
from seq1f1b_jax.data.prepare.portions import Portion
from seq1f1b_jax.data.tokenizer import Tokenizer, load_tokenizer

AHEAD = 2  # portions per process submitted before they are needed


class Reading(NamedTuple):
    """How documents are read and encoded.

    Attributes:
      tokenizer: argument of `load_tokenizer`.
      token_dtype: `uint16` or `uint32`.
      key: field or column that holds the text.
      separator: line between the documents of a text file; None: a file is one document.
      skip_bad: leave out, and count, documents that cannot be read.
      specials: whether special tokens spelled in documents are `text`, or `keep` their ids.
    """

    tokenizer: str
    token_dtype: str
    key: str
    separator: str | None
    skip_bad: bool
    specials: str


class Encoded(NamedTuple):
    """Tokens of one portion.

    Attributes:
      tokens: of all its documents.
      lengths: tokens of each document, or of the part of it in this portion.
      num_bytes: UTF-8 bytes of its documents.
      num_empty: documents without text, left out.
      num_skipped: unreadable documents, left out.
      first_skipped: what was wrong with the first of them; empty: none.
      num_special: special tokens spelled in its documents.
    """

    tokens: UInt[np.ndarray, " num_tokens"]
    lengths: Int64[np.ndarray, " num_documents"]
    num_bytes: int = 0
    num_empty: int = 0
    num_skipped: int = 0
    first_skipped: str = ""
    num_special: int = 0


def encode_portion(portion: Portion, tokenizer: Tokenizer, reading: Reading) -> Encoded:
    """Read and encode a portion.

    Raises:
      UserError: a document that cannot be read, unless `reading.skip_bad`.
    """
    dtype = np.dtype(reading.token_dtype).newbyteorder("<")
    begin = np.array(tokenizer.prefix if portion.opens else (), dtype)
    closed = portion.closes and tokenizer.eos is not None
    end = np.array((tokenizer.eos,) if closed else (), dtype)
    keep, spellings = reading.specials == KEEP, spelling_pattern(tokenizer.special_names)
    kept, lengths, num_bytes, num_empty, num_special, faults = [], [], 0, 0, 0, []
    for text in read_documents(portion, key=reading.key, separator=reading.separator):
        if isinstance(text, UserError):
            if not reading.skip_bad:
                raise text
            faults.append(str(text) if not faults else "")
            continue
        pieces = list(encode_text(tokenizer, text, dtype, keep_specials=keep))
        if pieces:
            num_bytes += len(text.encode())
            num_special += sum(1 for _ in spellings.finditer(text)) if spellings else 0
            pieces = [begin, *pieces, end]
            lengths.append(sum(piece.size for piece in pieces))
            kept += pieces
        else:
            num_empty += 1
    tokens = np.concatenate([np.zeros(0, dtype), *kept])
    return Encoded(
        tokens, np.array(lengths, np.int64), num_bytes, num_empty, len(faults),
        faults[0] if faults else "", num_special,
    )


def spelling_pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    """Matches special tokens spelled in a text, longest first; None if there are no such tokens.

    Example:
      >>> from seq1f1b_jax.data.prepare.encode import spelling_pattern
      >>> len(spelling_pattern(["<s>", "</s>"]).findall("<s> not <<s>, </s>"))
      3
    """
    longest_first = sorted(filter(None, names), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


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
