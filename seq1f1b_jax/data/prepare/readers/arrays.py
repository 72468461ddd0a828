"""A JSON array read element by element, with only one in memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import (
    CURE,
    Conversation,
    Document,
    Fields,
    json_document,
)
from seq1f1b_jax.data.prepare.readers.sources import JSON, JSONL, InputFile
from seq1f1b_jax.data.prepare.readers.streams import open_stream

BLOCK_BYTES = 1 << 20
BACKSLASH = ord("\\")
BOM = b"\xef\xbb\xbf"
_SPACES = re.compile(rb"[ \t\r\n]*")
_NESTING = re.compile(rb'["{}\[\]]')
_SCALAR_END = re.compile(rb"[,\]}\s]")


def layout(file: InputFile) -> str | UserError:
    """How a `.json` is laid out: `jsonl`, an object per line, or `json`, an array of objects.

    Returns:
      The layout, or an error if it is neither.

    Raises:
      UserError: the file cannot be read.
    """
    with open_stream(file.path, file.compression) as stream:
        values = _Values(stream.content)
        first = values.peek()
        if first in (b"", b"["):
            return JSON if first else JSONL
        if first == b"{":
            line = values.line()
            if isinstance(_parsed(line), dict):
                return JSONL
            reason = f"its first line is {_shown(line)}"
        else:
            reason = f"it begins with {_shown(first)}"
    return UserError(
        f"{file.path} holds neither lines of JSON objects nor one array of objects: {reason}; "
        "convert it to one of these, name it .txt to read it as text, or leave it out"
    )


def array_documents(
    path: Path, content: BinaryIO, fields: Fields
) -> Iterator[Document | UserError]:
    """The document in every object of an array; an error in place of one that cannot be read.

    Raises:
      UserError: the array itself is malformed, so the rest cannot be parsed.

    Example:
      >>> import io
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.readers.arrays import array_documents
      >>> from seq1f1b_jax.data.prepare.readers.fields import Fields
      >>> content = io.BytesIO(b'[{"text": "one"}, {"text": "two"}]')
      >>> list(array_documents(Path("a.json"), content, Fields()))
      ['one', 'two']
    """
    values = _Values(content)
    number = 0
    try:
        for element in values.elements():
            number += 1
            document, fault = json_document(element, fields)
            where = f"{path}: element {number}"
            if isinstance(document, Conversation):
                document = document._replace(where=where)
            yield UserError(f"{where}: {fault}; {CURE}") if fault else document
    except _Broken as broken:
        raise UserError(
            f"{path}: after element {number}: {broken}; correct it, or get the file again"
        ) from broken


class _Broken(Exception):
    """The array, not an element, is malformed."""


class _Values:
    """Reads a stream value by value, and drops what it has passed."""

    def __init__(self, content: BinaryIO):
        self._content = content
        self._data, self._at = bytearray(), 0
        while len(self._data) < len(BOM) and self._more():
            pass
        if self._data.startswith(BOM):
            self._at = len(BOM)

    def peek(self) -> bytes:
        """Skip whitespace and return the next byte; empty at the end."""
        while True:
            self._at = _SPACES.match(self._data, self._at).end()
            if self._at < len(self._data) or not self._more():
                return bytes(self._data[self._at : self._at + 1])

    def line(self) -> bytes:
        """The rest of this line."""
        while (end := self._data.find(b"\n", self._at)) < 0 and self._more():
            pass
        return bytes(self._data[self._at : end if end >= 0 else None])

    def elements(self) -> Iterator[bytes]:
        """Bytes of every element of the array that begins here.

        Raises:
          _Broken: something else is between the elements, or follows the array.
        """
        self._take(b"[")
        if self.peek() == b"]":
            self._take(b"]")
        else:
            while True:
                yield self._value()
                if self.peek() != b",":
                    self._take(b"]")
                    break
                self._take(b",")
        if found := self.peek():
            raise _Broken(f"{_shown(found)} follows the array")

    def _take(self, wanted: bytes) -> None:
        found = self.peek()
        if found != wanted:
            raise _Broken(f"{_shown(found)} where {_shown(wanted)} should be")
        self._at += 1

    def _value(self) -> bytes:
        first = self.peek()
        self._forget()
        if first in (b"{", b"["):
            end = self._nested_end()
        elif first == b'"':
            end = self._string_end(1)
        else:
            end = self._scalar_end()
        if not end:
            raise _Broken(f"{_shown(first)} where an object should be")
        self._at = end
        return bytes(memoryview(self._data)[:end])

    def _forget(self) -> None:
        """Drop the data before this position, without copying."""
        del self._data[: self._at]
        self._at = 0

    def _nested_end(self) -> int:
        """The position after the bracket that closes the first one."""
        at = depth = 0
        while True:
            found = _NESTING.search(self._data, at)
            if found is None:
                at = len(self._data)
                self._need()
                continue
            mark, at = found[0], found.end()
            if mark == b'"':
                at = self._string_end(at)
            elif mark in b"{[":
                depth += 1
            else:
                depth -= 1
                if not depth:
                    return at

    def _string_end(self, at: int) -> int:
        """The position after the quote that closes the string continuing at `at`."""
        begin = at
        while True:
            end = self._data.find(b'"', at)
            if end < 0:
                at = len(self._data)
                self._need()
                continue
            last = end
            while last > begin and self._data[last - 1] == BACKSLASH:
                last -= 1
            at = end + 1
            if (end - last) % 2 == 0:  # else the quote is escaped
                return at

    def _scalar_end(self) -> int:
        while (found := _SCALAR_END.search(self._data)) is None:
            self._need()
        return found.start()

    def _need(self) -> None:
        if not self._more():
            raise _Broken("the file ends inside the array")

    def _more(self) -> bool:
        block = self._content.read(BLOCK_BYTES)
        self._data += block
        return bool(block)


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _shown(found: bytes) -> str:
    return repr(found[:40].decode("utf-8", "backslashreplace")) if found else "nothing"
