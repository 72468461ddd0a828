"""Data sets of the Hugging Face Hub, streamed: `hf://OWNER/NAME`, by the `datasets` library.

Records come in one order, which the commit of the data set decides; it is looked up at the start
and is part of what the tokens depend on. Nothing is stored but the tokens, so a `prepare` that was
killed streams again what it had read, without encoding it again.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import (
    CURE,
    Conversation,
    Document,
    Fields,
    document_of,
)

PREFIX = "hf://"


class HubSet(NamedTuple):
    """A data set, or a part of one.

    Attributes:
      name: `OWNER/NAME`.
      subset: one of its configurations; None: the only one, or the default.
      split: which split.
      revision: branch, tag or commit; a commit once it is looked up.
      limit: take so many records from the beginning; None: all.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: int | None = None

    @property
    def path(self) -> Path:
        """Stands for it where a file is named."""
        return Path(f"hf:/{self.name}")


WHOLE = HubSet("")
"""What is taken where nothing else is asked for."""


def is_hub(source: str) -> bool:
    """Whether a source is a data set of the Hub.

    Example:
      >>> from seq1f1b_jax.data.prepare.readers.hub import is_hub
      >>> is_hub("hf://allenai/c4"), is_hub("c4.jsonl")
      (True, False)
    """
    return source.startswith(PREFIX)


def look_up(source: str, wanted: HubSet) -> HubSet:
    """The data set that a source names, at the commit that it has now.

    Args:
      source: `hf://OWNER/NAME`.
      wanted: subset, split, revision and limit; its name is not read.

    Raises:
      UserError: a name of another form, a missing library, no such data set, or no network.
    """
    name = source.removeprefix(PREFIX).removeprefix("datasets/").strip("/")
    if not name or name.count("/") > 1:
        raise UserError(
            f"{source}: a data set is hf://OWNER/NAME; choose among its parts with --subset and "
            "--split"
        )
    with Reaching(source):
        import datasets as _  # noqa: F401  # a look at the Hub is in vain without it
        from huggingface_hub import HfApi

        found = HfApi().dataset_info(name, revision=wanted.revision, timeout=30)
        return wanted._replace(name=name, revision=found.sha)


def hub_documents(hub: HubSet, fields: Fields) -> Iterator[Document | UserError]:
    """The document of every record; an error in place of one that cannot be read.

    Raises:
      UserError: no such subset, split or field, or the network fails.
    """
    source = f"{PREFIX}{hub.name}"
    with Reaching(source):
        import datasets

        stream = datasets.load_dataset(
            hub.name, hub.subset, split=hub.split, streaming=True, revision=hub.revision
        )
        if stream.column_names is not None:  # of some kinds of files they are not known before
            for key in fields.keys:
                _check_key(source, stream.column_names, key)
            stream = stream.select_columns(list(fields.keys))
        records = iter(stream if hub.limit is None else stream.take(hub.limit))
    number = 0
    while True:
        with Reaching(source):
            record = next(records, None)
        if record is None:
            return
        number += 1
        yield _document(f"{source}: record {number}", record, fields)


def _check_key(source: str, names: list[str], key: str) -> None:
    if key not in names:
        raise UserError(
            f"{source} has no field {key!r}, but {', '.join(map(repr, names[:8]))}; name one with "
            "--key"
        )


def _document(where: str, record: dict[str, Any], fields: Fields) -> Document | UserError:
    for key in fields.keys:
        if key not in record:
            return UserError(f"{where}: no field {key!r}; {CURE}")
    values = {key: "" if record[key] is None else record[key] for key in fields.keys}
    document, fault = document_of(values, fields)
    if fault:
        return UserError(f"{where}: {fault}; {CURE}")
    return document._replace(where=where) if isinstance(document, Conversation) else document


class Reaching:
    """Turns what the libraries raise about a data set, whatever it is, into one line.

    Args:
      source: as it was given.
    """

    def __init__(self, source: str):
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, ModuleNotFoundError):
            raise UserError(
                f"{self._source} needs the datasets library; install the extra of that name: "
                "pip install 'seq1f1b-jax[datasets]'"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, UserError):
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self._source} cannot be read from the Hub ({reason}); correct the name, "
                "--subset or --split; where there is no network, give a folder of its parquet "
                "files, or of save_to_disk"
            ) from error
