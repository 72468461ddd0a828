"""What to prepare and how, and a check that every setting applies to some source."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import (
    ANSWER,
    DEFAULT_KEY,
    MESSAGES,
    Fields,
)
from seq1f1b_jax.data.prepare.readers.fields import (
    TEXT as ONE_TEXT,
)
from seq1f1b_jax.data.prepare.readers.hub import WHOLE, HubSet, is_hub
from seq1f1b_jax.data.prepare.readers.sources import KEYED, TEXT, InputFile
from seq1f1b_jax.data.tokenizer import BYTES

AS_TEXT, KEEP = "text", "keep"
"""Special tokens spelled in a document: encoded as ordinary text, or as themselves."""


@dataclass(frozen=True)
class PrepareJob:
    """What to prepare.

    Attributes:
      sources: files, folders or `stdlib`.
      to: the token folder to write.
      tokenizer: what `load_tokenizer` takes.
      train_bpe: size of a BPE vocabulary to train on the sources instead; None: do not train.
      eos: the token that ends a document; None: the one named by the tokenizer's files.
      key: field of JSON, or column of CSV or parquet, that holds the text; None: `text`.
      messages: the field that holds a conversation instead, a list of turns.
      answered: the fields that hold a prompt and its answer instead.
      chat_template: of conversations: the name of one of the tokenizer's, or a file; None: its
        `default`.
      separator: line between the documents of a text file; None: a file is one document.
      extensions: take only files of folders with these extensions; empty: all.
      skip_bad: leave out, and count, documents that cannot be read.
      hub: what to take of data sets of the Hub.
      specials: whether special tokens spelled in documents are `text`, or `keep` their ids; None:
        `text`, and in conversations `keep`.
      processes: number of encoding processes.
    """

    sources: Sequence[str]
    to: Path
    tokenizer: str = BYTES
    train_bpe: int | None = None
    eos: str | None = None
    key: str | None = None
    messages: str | None = None
    answered: tuple[str, str] | None = None
    chat_template: str | None = None
    separator: str | None = None
    extensions: Sequence[str] = ()
    skip_bad: bool = False
    hub: HubSet = WHOLE
    specials: str | None = None
    processes: int = 1

    @property
    def special_tokens(self) -> str:
        """What becomes of special tokens spelled in documents."""
        return self.specials or (AS_TEXT if self.messages is None else KEEP)

    @property
    def fields(self) -> Fields:
        """What makes a document of a record."""
        if self.messages is not None:
            return Fields(MESSAGES, (self.messages,))
        if self.answered is not None:
            return Fields(ANSWER, self.answered)
        return Fields(ONE_TEXT, (self.key or DEFAULT_KEY,))


def check_extensions(job: PrepareJob) -> None:
    """Refuse extensions when no source is a folder, and parts of a data set without one.

    Raises:
      UserError: no source is.
    """
    given = [name for name, value in job.hub._asdict().items() if value != getattr(WHOLE, name)]
    streamed = [source for source in job.sources if is_hub(source)]
    if given and not streamed:
        raise UserError(
            f"--{given[0]} {getattr(job.hub, given[0])} is for data sets of the Hub, and no source "
            "is one (hf://OWNER/NAME); leave it out"
        )
    if job.train_bpe is not None and streamed and job.hub.limit is None:
        raise UserError(
            f"--train-bpe would read all of {streamed[0]} twice; take a part of it with --limit, "
            "and give the folder that it makes as --tokenizer for the whole"
        )
    if job.extensions and not any(s != "stdlib" and Path(s).is_dir() for s in job.sources):
        raise UserError(
            f"--extensions {','.join(job.extensions)} chooses among files of folders, and no "
            "source is one; leave it out"
        )


def check_kinds(job: PrepareJob, files: Sequence[InputFile]) -> None:
    """Refuse fields without a file of records, and `separator` without a text file.

    A conversation, or a prompt and its answer, is a record: no file may be text.

    Raises:
      UserError: a setting that applies to none of the files.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.job import PrepareJob, check_kinds
      >>> from seq1f1b_jax.data.prepare.readers.sources import InputFile
      >>> job = PrepareJob(["a.csv"], Path("tokens"), key="body")
      >>> check_kinds(job, [InputFile(Path("a.csv"), "csv", 9, 0)])
    """
    kinds = {file.kind for file in files}
    shown = f"{files[0].path} is" if len(files) == 1 else f"all {len(files)} files are"
    if job.key is not None and not kinds & set(KEYED):
        raise UserError(
            f"--key {job.key} names a field of JSON, CSV, parquet or Arrow, and {shown} text by "
            "name; leave it out, or give a file its right extension"
        )
    if job.fields.kind != ONE_TEXT and TEXT in kinds:
        text = next(file.path for file in files if file.kind == TEXT)
        option = "--messages" if job.messages is not None else "--prompt and --answer"
        raise UserError(
            f"{option}: only JSON lines, JSON, CSV and parquet have fields, and {text} is text by "
            "name; leave it out (--extensions chooses in folders), or give it its right extension"
        )
    if job.separator is not None and TEXT not in kinds:
        raise UserError(
            f"--split-documents-on {job.separator} is for text, and {shown} "
            f"{' and '.join(sorted(kinds))}; leave it out"
        )
