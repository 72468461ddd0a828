"""Files as streams of bytes, uncompressed on the way."""

import bz2
import gzip
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.text import unreadable

GZ, BZ2, XZ, ZST = "gz", "bz2", "xz", "zst"
COMPRESSIONS: Mapping[str, str] = {".gz": GZ, ".bz2": BZ2, ".xz": XZ, ".zst": ZST}  # by suffix
LARGEST_WINDOW_LOG = 31  # of zst, as written by --long=31, the maximum


class OpenFile(NamedTuple):
    """An open file.

    Attributes:
      content: its bytes, uncompressed.
      file: the file itself; its position shows progress.
    """

    content: BinaryIO
    file: BinaryIO


@contextmanager
def open_stream(path: Path, compression: str = "") -> Iterator[OpenFile]:
    """Open a file to read it once, from the beginning.

    Args:
      path: the file.
      compression: `gz`, `bz2`, `xz`, `zst`; empty: none.

    Raises:
      UserError: it cannot be read, is damaged, or needs a missing library.

    Example:
      >>> import gzip, tempfile
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.readers.streams import open_stream
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder, "a.txt.gz")
      ...     _ = path.write_bytes(gzip.compress(b"text"))
      ...     with open_stream(path, "gz") as stream:
      ...         stream.content.read()
      b'text'
    """
    damaged = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
    damaged += (zstd_module(path).ZstdError,) if compression == ZST else ()
    try:
        with path.open("rb") as file, _uncompressed(path, file, compression) as content:
            yield OpenFile(content, file)
    except damaged as error:
        raise _broken(path, compression, error) from error
    except OSError as error:
        if error.errno is None:  # raised by bz2 for content that is not bz2
            raise _broken(path, compression, error) from error
        raise unreadable(path, error) from error


def check_readable(path: Path, compression: str = "") -> os.stat_result:
    """The `stat` of a file that can be opened.

    Raises:
      UserError: it cannot be opened, is a pipe or a device, which cannot be read twice, or needs a
        missing library.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(
                f"{path} is no regular file; a run that is killed could not continue: give a file"
            )
        with path.open("rb"):
            pass
    except OSError as error:
        raise unreadable(path, error) from error
    if compression == ZST:
        zstd_module(path)
    return status


def zstd_module(path: Path) -> ModuleType:
    """The library that reads zst: in Python since 3.14, before that its backport.

    Raises:
      UserError: it is not installed.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise UserError(
            f"{path} needs backports.zstd; install the extra zstd: pip install 'seq1f1b-jax[zstd]'"
        ) from error
    return zstd


def _uncompressed(path: Path, file: BinaryIO, compression: str) -> Any:
    if compression == GZ:
        return gzip.GzipFile(fileobj=file)
    if compression == BZ2:
        return bz2.BZ2File(file)
    if compression == XZ:
        return lzma.LZMAFile(file)
    if compression == ZST:
        zstd = zstd_module(path)
        options = {zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW_LOG}
        return zstd.ZstdFile(file, options=options)
    return nullcontext(file)


def _broken(path: Path, compression: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path} cannot be read as {compression or 'a file'}: {reason}; get it again")
