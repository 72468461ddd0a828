"""Columns of a parquet file; pyarrow is imported here and nowhere else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import MESSAGES, Fields

ROWS = 256  # at a time


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Open a file as a `pyarrow.parquet.ParquetFile`.

    Raises:
      UserError: pyarrow is not installed, or the file is not parquet, or is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path} needs pyarrow; install the extra of that name: "
            "pip install 'seq1f1b-jax[parquet]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            yield opened
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as parquet: {reason}") from error


def read_columns(
    path: Path, group: int, fields: Fields
) -> Iterator[tuple[int, Mapping[str, Any] | UserError]]:
    """The rows of a row group: index of the row in the group, and its values or what is wrong.

    Raises:
      UserError: there is no such column, or it holds something else.
    """
    with open_parquet(path) as opened:
        schema = opened.schema_arrow
        for key in fields.keys:
            check_column(path, schema, key, fields.kind)
        row = 0
        for batch in opened.iter_batches(ROWS, row_groups=[group], columns=list(fields.keys)):
            for values in rows_of(batch, fields):
                yield row, row_values(f"{path}: row {row} of row group {group}", fields, values)
                row += 1


def rows_of(batch: Any, fields: Fields) -> Iterator[tuple[Any, ...]]:
    """The values of the fields, row by row, of a `pyarrow.RecordBatch`."""
    columns = [batch.column(batch.schema.names.index(key)) for key in fields.keys]
    return zip(*columns, strict=True)


def check_column(path: Path, schema: Any, key: str, kind: str) -> None:
    """Refuse a column that is missing, or holds neither text nor, of messages, lists of objects.

    Args:
      path: the file, for messages.
      schema: a `pyarrow.Schema`.
      key: the column.
      kind: of document that it is for (`Fields.kind`).

    Raises:
      UserError: there is no such column, or it holds something else.
    """
    import pyarrow

    if key not in schema.names:
        raise UserError(
            f"{path} has no column {key!r}, but {', '.join(schema.names[:20])}; name another one"
        )
    found, types = schema.field(key).type, pyarrow.types
    is_list = types.is_list(found) or types.is_large_list(found)
    if types.is_string(found) or types.is_large_string(found):
        return
    if kind == MESSAGES and is_list and types.is_struct(found.value_type):
        return
    wanted = "a list of messages" if kind == MESSAGES else "text"
    raise UserError(f"{path}: column {key!r} is {found}, not {wanted}; name another one")


def row_values(
    where: str, fields: Fields, values: tuple[Any, ...]
) -> Mapping[str, Any] | UserError:
    """The values of a row by name, or what is wrong with it; `where` names the row."""
    try:
        found = [value.as_py() for value in values]
    except UnicodeDecodeError as error:
        return UserError(
            f"{where} is not UTF-8 (byte {error.start} of its text); correct it, or leave such "
            "rows out with --skip-bad"
        )
    return dict(zip(fields.keys, ("" if value is None else value for value in found), strict=True))
