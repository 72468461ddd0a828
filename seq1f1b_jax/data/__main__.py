"""Turn text into token folders, and inspect them.

    python -m seq1f1b_jax.data prepare books/ --to tokens --train-bpe 8192
    python -m seq1f1b_jax.data prepare web.jsonl --key text --to tokens --tokenizer tokenizer.json
    python -m seq1f1b_jax.data prepare chats.jsonl --messages messages --to tokens --tokenizer model
    python -m seq1f1b_jax.data show tokens --seq-len 4096

A killed `prepare` resumes when the same command is run again.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.folder import TokenFolder, open_folder
from seq1f1b_jax.data.prepare.bar import BytesBar
from seq1f1b_jax.data.prepare.options import make_job, parser, user_path
from seq1f1b_jax.data.prepare.run import prepare
from seq1f1b_jax.data.summary import summary
from seq1f1b_jax.data.tokenizer import BYTES, Tokenizer, load_tokenizer
from seq1f1b_jax.paths import one_line

OPEN, CLOSE = "\u27e6", "\u27e7"  # white brackets, which texts hardly have
INTERRUPTED = 130  # as a shell reports Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: command line; default: that of the process.

    Returns:
      The exit status: 0; 2 for bad input, with one line on standard error; 130 after Ctrl-C.
    """
    try:
        options = parser().parse_args(arguments)
        text = _prepare(options) if options.command == "prepare" else _show(options)
    except UserError as error:
        return _refused(str(error))
    except OSError as error:  # an impossible file name, or a failing disk
        return _refused(f"cannot use {error.filename or 'a file'} ({error.strerror})")
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return INTERRUPTED
    try:
        print(text.encode(errors="backslashreplace").decode(), flush=True)  # names not in UTF-8
    except BrokenPipeError:  # the reader, `head` say, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _refused(reason: str) -> int:
    """Print an error on one line, whatever it quotes."""
    print(f"error: {one_line(reason)}", file=sys.stderr)
    return 2


def _prepare(options: argparse.Namespace) -> str:
    began = time.perf_counter()
    with BytesBar() as bar:
        job = make_job(options)
        meta = prepare(job, say=bar.message, advance=bar.advance)
    rate = meta.num_tokens * bar.share / (time.perf_counter() - began)
    head = f"{options.to}: {rate:,.0f} tokens/s" if bar.share else f"{options.to}:"
    return f"{head}\n{summary(open_folder(job.to))}"


def _show(options: argparse.Namespace) -> str:
    path = user_path(options.folder)
    folder = open_folder(path)
    if options.document is not None:
        if options.seq_len is not None:
            raise UserError(
                "--document shows one text, and --seq-len is about all of them; leave one out"
            )
        return _text(path, folder, options.document)
    return summary(folder, seq_len=options.seq_len)


def _text(path: Path, folder: TokenFolder, document: int) -> str:
    """One document, decoded; control characters become U+FFFD.

    Of a folder with a loss mask, what counts stands between brackets.
    """
    if not 0 <= document < folder.meta.num_documents:
        raise UserError(
            f"--document {document}: {path} has {folder.meta.num_documents}, numbered from 0"
        )
    tokenizer = load_tokenizer(BYTES if folder.meta.tokenizer == BYTES else path)
    place = slice(*folder.documents[document : document + 2].tolist())
    ids = folder.tokens[place].tolist()
    if folder.loss_mask is not None:
        text = _bracketed(tokenizer, ids, folder.loss_mask[place].tolist())
    else:
        text = tokenizer.decode(ids[:-1] if ids[-1] == tokenizer.eos else ids)
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _bracketed(tokenizer: Tokenizer, ids: Sequence[int], counted: Sequence[int]) -> str:
    """The text of tokens, those that count between brackets."""
    stream, parts, before = tokenizer.decode_stream(), [], 0
    for token, counts in zip(ids, counted, strict=True):
        if counts != before:
            parts.append(OPEN if counts else CLOSE)
        parts.append(stream.step(token))
        before = counts
    return "".join([*parts, stream.finish(), CLOSE * before])


if __name__ == "__main__":
    sys.exit(main())
