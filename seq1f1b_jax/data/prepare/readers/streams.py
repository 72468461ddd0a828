"""Files as streams of bytes, unpacked on the way where they are packed."""

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
PACKINGS: Mapping[str, str] = {".gz": GZ, ".bz2": BZ2, ".xz": XZ, ".zst": ZST}  # by suffix
LARGEST_WINDOW_LOG = 31  # of zst: what --long=31, the most there is, writes


class OpenFile(NamedTuple):
    """An open file.

    Attributes:
      content: its bytes, unpacked.
      file: what they come from; its position tells how far it is read.
    """

    content: BinaryIO
    file: BinaryIO


@contextmanager
def open_stream(path: Path, packing: str = "") -> Iterator[OpenFile]:
    """Open a file to read it once from its beginning.

    Args:
      path: the file.
      packing: `gz`, `bz2`, `xz`, `zst`; empty: none.

    Raises:
      UserError: it cannot be read, or is damaged, or needs a library that is missing.

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
    damaged += (zstd_module(path).ZstdError,) if packing == ZST else ()
    try:
        with path.open("rb") as file, _unpacked(path, file, packing) as content:
            yield OpenFile(content, file)
    except damaged as error:
        raise _broken(path, packing, error) from error
    except OSError as error:
        if error.errno is None:  # bz2 has no error of its own for content that is not bz2
            raise _broken(path, packing, error) from error
        raise unreadable(path, error) from error


def check_readable(path: Path, packing: str = "") -> os.stat_result:
    """Size and time of a file that can be opened.

    Raises:
      UserError: it cannot, or is a pipe or a device, which ends when it likes and cannot be read
        again, or needs a library that is missing.
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
    if packing == ZST:
        zstd_module(path)
    return status


def zstd_module(path: Path) -> ModuleType:
    """The library that reads zst: Python's own from 3.14 on, before that its backport.

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


def _unpacked(path: Path, file: BinaryIO, packing: str) -> Any:
    if packing == GZ:
        return gzip.GzipFile(fileobj=file)
    if packing == BZ2:
        return bz2.BZ2File(file)
    if packing == XZ:
        return lzma.LZMAFile(file)
    if packing == ZST:
        zstd = zstd_module(path)
        options = {zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW_LOG}
        return zstd.ZstdFile(file, options=options)
    return nullcontext(file)


def _broken(path: Path, packing: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{path} cannot be read as {packing or 'a file'}: {reason}; get it again")
