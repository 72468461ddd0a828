"""One column of text of a parquet file; pyarrow is imported here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError

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


def read_column(path: Path, group: int, key: str) -> Iterator[tuple[int, str | None | UserError]]:
    """The rows of a row group: index of the row in the group, and its text or what is wrong.

    Raises:
      UserError: there is no such column, or it does not hold text.
    """
    with open_parquet(path) as opened:
        check_column(path, opened.schema_arrow, key)
        row = 0
        for batch in opened.iter_batches(ROWS, row_groups=[group], columns=[key]):
            for value in batch.column(0):
                yield row, cell_text(f"{path}: row {row} of row group {group}", value)
                row += 1


def check_column(path: Path, schema: Any, key: str) -> None:
    """Refuse a `pyarrow.Schema` without a column of text of that name.

    Raises:
      UserError: there is no such column, or it holds something else.
    """
    import pyarrow

    if key not in schema.names:
        raise UserError(
            f"{path} has no column {key!r}, but {', '.join(schema.names[:20])}; name one with "
            "--key"
        )
    kind, types = schema.field(key).type, pyarrow.types
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(f"{path}: column {key!r} is {kind}, not text; name another with --key")


def cell_text(where: str, value: Any) -> str | None | UserError:
    """The text of a `pyarrow.StringScalar`, or what is wrong with it."""
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return UserError(
            f"{where} is not UTF-8 (byte {error.start} of its text); correct it, or leave such "
            "rows out with --skip-bad"
        )
