"""What to prepare, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seq1f1b_jax.data.prepare.specials import TEXT
from seq1f1b_jax.data.tokenizer import BYTES

DEFAULT_KEY = "text"


@dataclass(frozen=True)
class Job:
    """What to prepare.

    Attributes:
      sources: files, folders or `stdlib`.
      to: the token folder to make.
      tokenizer: what `load_tokenizer` takes.
      train_bpe: tokens of a BPE to train on the sources instead; None: none.
      eos: the token behind a document; None: what the tokenizer's files say.
      key: field of JSON, or column of CSV or parquet, that holds the text; None: `text`.
      separator: line between the documents of a text file; None: a file is a document.
      extensions: of folders only files whose names end so; none: all.
      skip_bad: leave documents out that cannot be read, and count them.
      specials: special tokens that are spelled in documents are `text`, or `keep` their meaning.
      processes: how many encode.
    """

    sources: Sequence[str]
    to: Path
    tokenizer: str = BYTES
    train_bpe: int | None = None
    eos: str | None = None
    key: str | None = None
    separator: str | None = None
    extensions: Sequence[str] = ()
    skip_bad: bool = False
    specials: str = TEXT
    processes: int = 1
