"""A summary of a token folder."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from seq1f1b_jax.data.folder import CHECKED_DOCUMENTS, Meta, TokenFolder
from seq1f1b_jax.data.packed import cut_and_pack
from seq1f1b_jax.data.tokenizer import BYTES

BAR_WIDTH = 40
_READ_AS = {"text": "read as ordinary text", "keep": "kept as special tokens"}
_LOSS_ON = {"messages": "the assistant's turns", "answer": "the answers"}


def summary(folder: TokenFolder, *, seq_len: int | None = None) -> str:
    """Figures of a token folder and a histogram of its document lengths.

    Args:
      folder: what `open_folder` returned.
      seq_len: also report how documents pack into sequences of this many tokens.
    """
    rows = _rows(folder.meta)
    if seq_len is not None:
        rows["packed"] = _packed(folder.documents, seq_len)
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join([*lines, "", "tokens of a document", *histogram(lengths_of(folder))])


def lengths_of(folder: TokenFolder) -> Iterable[Int64[np.ndarray, " documents"]]:
    """Tokens of each document, a block at a time."""
    for start in range(0, folder.meta.num_documents, CHECKED_DOCUMENTS):
        yield np.diff(folder.documents[start : start + CHECKED_DOCUMENTS + 1])


def histogram(blocks: Iterable[Int64[np.ndarray, " documents"]]) -> Sequence[str]:
    """Bars of the number of documents by length, in powers of two.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data.summary import histogram
      >>> histogram([np.array([1, 5, 6, 7])])[1:]
      ['2-3  0', '4-7  3  ########################################']
    """
    counts = np.zeros(64, np.int64)
    for lengths in blocks:
        counts += np.bincount(np.frexp(lengths.astype(float))[1] - 1, minlength=64)
    used = np.flatnonzero(counts)
    rows = range(used[0], used[-1] + 1)
    names = ["1" if row == 0 else f"{2**row}-{2 ** (row + 1) - 1}" for row in rows]
    names_width, counts_width = max(map(len, names)), max(len(f"{counts[row]:,}") for row in rows)
    lines = (
        f"{name:<{names_width}}  {counts[row]:>{counts_width},}  {_bar(counts[row], counts.max())}"
        for name, row in zip(names, rows, strict=True)
    )
    return [line.rstrip() for line in lines]


def _bar(count: int, largest: int) -> str:
    return "#" * max(int(count > 0), int(BAR_WIDTH * count / largest))


def _rows(meta: Meta) -> dict[str, str]:
    eos = "none" if meta.eos is None else f"token {meta.eos}"
    rows = {
        "documents": f"{meta.num_documents:,}",
        "tokens": f"{meta.num_tokens:,} as {meta.token_dtype}",
        "per document": f"{meta.num_tokens / meta.num_documents:,.1f} tokens",
        "text": f"{meta.num_bytes:,} bytes, {meta.num_bytes / meta.num_tokens:.3f} per token",
        **({} if meta.num_counted is None else {"loss": _loss(meta, meta.num_counted)}),
        "left out": f"{meta.num_empty:,} empty, {meta.num_skipped:,} that could not be read"
        + f", {meta.num_refused:,} without an exact loss mask" * bool(meta.num_refused),
        "tokenizer": f"{meta.tokenizer}, {meta.vocab_size:,} tokens; end of a document: {eos}",
        "sha256": meta.sha256,
    }
    if meta.tokenizer != BYTES and meta.num_special is not None:
        read_as = _READ_AS[meta.special_tokens]
        if meta.loss_on == "messages" and meta.num_special:
            read_as += ", as if the chat template had written them"
        rows["special tokens"] = f"{meta.num_special:,} spelled in the documents, {read_as}"
    return rows


def _loss(meta: Meta, counted: int) -> str:
    share = f"{counted:,} tokens, {counted / meta.num_tokens:.1%}"
    return f"on {_LOSS_ON[meta.loss_on]}: {share}"


def _packed(documents: Int64[np.ndarray, " num_documents_and_1"], seq_len: int) -> str:
    pieces = cut_and_pack(np.asarray(documents), seq_len, "split")
    rate = pieces.num_tokens / (pieces.num_sequences * seq_len)
    return (
        f"{pieces.num_sequences:,} sequences of {seq_len:,}, {rate:.2%} full; "
        f"documents that are longer, and cut: {pieces.num_split:,}"
    )
