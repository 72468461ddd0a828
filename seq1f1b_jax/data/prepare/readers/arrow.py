"""Columns of an Arrow file, as `datasets` writes them: a stream of record batches.

A file is a row of messages, so a process can begin at any batch whose offset it knows; of what
comes before it needs the schema, and dictionaries where columns are encoded by them.

    schema, dictionaries, batch, batch, batch, end     with or without `ARROW1` and a footer around
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import Fields
from seq1f1b_jax.data.prepare.readers.parquet import check_column, row_values, rows_of

MAGIC = b"ARROW1\0\0"
BATCH = "record batch"


class Message(NamedTuple):
    """A message in a file.

    Attributes:
      start: its first byte.
      stop: its end, exclusive.
      content: `pyarrow.ipc.Message`, mapped and not read.
    """

    start: int
    stop: int
    content: Any


def batch_offsets(path: Path) -> list[tuple[int, int]]:
    """First byte and end of every record batch.

    Raises:
      UserError: pyarrow is not installed, or the file is not Arrow, or is damaged.
    """
    with _damage_told(path):
        return [(m.start, m.stop) for m in _messages(path) if m.content.type == BATCH]


def read_batches(
    path: Path, start: int, stop: int, fields: Fields
) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
    """The rows of batches between two offsets: index of the row, and its values or what is wrong.

    Args:
      path: the file.
      start: first byte of the first batch.
      stop: end of the last one.
      fields: the columns.

    Raises:
      UserError: there is no such column, or it holds something else.
    """
    with _damage_told(path):
        from pyarrow import ipc

        head, schema = _head(path, start)
        for key in fields.keys:
            check_column(path, schema, key, fields.kind)
        batches = [m for m in _messages(path, start) if m.start < stop]
        parts = [message.content.serialize().to_pybytes() for message in (*head, *batches)]
        columns = [schema.names.index(key) for key in fields.keys]
        options = ipc.IpcReadOptions(included_fields=columns)
        row = 0
        for batch in ipc.open_stream(b"".join(parts), options=options):
            for values in rows_of(batch, fields):
                yield row, row_values(f"{path}: row {row} after byte {start}", fields, values)
                row += 1


def _head(path: Path, start: int) -> tuple[list[Message], Any]:
    """The schema's message and the dictionaries before an offset; and the schema."""
    import pyarrow
    from pyarrow import ipc

    messages = _messages(path)
    first = next(messages, None)
    if first is None:
        raise pyarrow.ArrowInvalid("the file has no schema")
    schema = ipc.read_schema(first.content)
    encoded = any(pyarrow.types.is_dictionary(field.type) for field in schema)
    before = (m for m in messages if m.start < start) if encoded or _nested(schema) else ()
    return [first, *(m for m in before if m.content.type != BATCH)], schema


def _nested(schema: Any) -> bool:
    """Whether a column has others in it, which may be encoded by a dictionary."""
    return any(field.type.num_fields for field in schema)


def _messages(path: Path, start: int | None = None) -> Iterator[Message]:
    """The messages of a file, from an offset on."""
    import pyarrow
    from pyarrow import ipc

    with pyarrow.memory_map(str(path)) as file:
        begin = len(MAGIC) if file.read(len(MAGIC)) == MAGIC else 0
        file.seek(begin if start is None else start)
        while True:
            start = file.tell()
            try:
                content = ipc.read_message(file)
            except EOFError:
                return
            yield Message(start, file.tell(), content)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a file into one line."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError(
            f"{path} needs pyarrow; install the extra parquet: pip install 'seq1f1b-jax[parquet]'"
        ) from error
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as Arrow: {reason}; get it again") from error
