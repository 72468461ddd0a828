"""The document of one record, or what is wrong with it."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

CURE = "correct it, or leave such documents out with --skip-bad"
TEXT, MESSAGES, ANSWER = "text", "messages", "answer"
"""A text; a conversation; a prompt and its answer."""
DEFAULT_KEY = "text"
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class Fields(NamedTuple):
    """Which fields of a record make a document.

    Attributes:
      kind: `text`, `messages` or `answer`.
      keys: names of the fields of JSON, or of the columns of CSV and parquet.
    """

    kind: str = TEXT
    keys: tuple[str, ...] = (DEFAULT_KEY,)


class Conversation(NamedTuple):
    """Turns, each with its `role`, and where they were read.

    Attributes:
      messages: the turns.
      where: file and place in it; empty: a line of the portion.
      line: that line.
    """

    messages: list[dict[str, Any]]
    where: str = ""
    line: int = 0


class Answered(NamedTuple):
    """A prompt and its answer."""

    prompt: str
    answer: str


Document = str | Conversation | Answered


def json_document(line: bytes | memoryview, fields: Fields) -> tuple[Document, str]:
    """The document in a JSON object, and what is wrong with it (empty: nothing).

    Example:
      >>> from seq1f1b_jax.data.prepare.readers.fields import Fields, json_document
      >>> json_document(b'{"text": "one"}', Fields()), json_document(b'{"text": 1}', Fields())
      (('one', ''), ('', "field 'text' is 1, not text"))
    """
    try:
        record = json.loads(str(line, "utf-8"))
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}"
    except json.JSONDecodeError as error:
        return "", f"not JSON: {error.msg} at column {error.pos + 1}"
    except (ValueError, RecursionError) as error:  # huge numbers, deep nesting
        return "", f"not JSON that can be read: {' '.join(str(error).split())[:80]}"
    if not isinstance(record, dict):
        kind = type(record).__name__
        return "", f"a JSON {kind}, not an object with the field {fields.keys[0]!r}"
    for key in fields.keys:
        if key not in record:
            return "", f"no field {key!r}, but {', '.join(map(repr, list(record)[:8])) or 'none'}"
    return document_of(record, fields)


def document_of(
    record: Mapping[str, Any], fields: Fields, *, fault_of: Callable[[str], str] | None = None
) -> tuple[Document, str]:
    """The document in the fields of a record, and what is wrong with it (empty: nothing).

    Args:
      record: values by name, at least those of `fields`.
      fields: which of them.
      fault_of: what is wrong with a text; default: `text_fault`.
    """
    fault_of = fault_of or text_fault
    if fields.kind == MESSAGES:
        return _conversation(fields.keys[0], record[fields.keys[0]])
    for key in fields.keys:
        if not isinstance(record[key], str):
            return "", f"field {key!r} is {json.dumps(record[key])[:40]}, not text"
    texts = [record[key] for key in fields.keys]
    fault = next(filter(None, map(fault_of, texts)), "")
    return ("" if fault else texts[0] if fields.kind == TEXT else Answered(*texts)), fault


def _conversation(key: str, value: Any) -> tuple[Document, str]:
    """A list of turns, or JSON of one, as in a column of CSV."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value else []
        except (ValueError, RecursionError):
            return "", f"field {key!r} is text, and no JSON of a list of messages"
    if not isinstance(value, list):
        return "", f"field {key!r} is {json.dumps(value)[:40]}, not a list of messages"
    for turn, message in enumerate(value):
        if not isinstance(message, dict):
            return "", f"message {turn} is {json.dumps(message)[:40]}, not an object with a role"
        if not isinstance(message.get("role"), str):
            return "", f"message {turn} has no role that is text ({json.dumps(message)[:40]})"
        if not isinstance(message.get("content"), str | list | None):
            content = json.dumps(message["content"])[:40]
            return "", f"message {turn} has the content {content}, neither text nor parts"
    return Conversation(value), ""


def text_fault(text: str) -> str:
    """What is wrong with a string: half a surrogate pair, or a zero character."""
    if "\0" in text:
        return f"character {text.index(chr(0))} of the text is a zero character"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start} of the text is half a surrogate pair"
    return ""


def cell_fault(text: str) -> str:
    """The same for text in which bytes that are not UTF-8 became lone surrogates."""
    if found := _ESCAPED_BYTE.search(text):
        byte = ord(found[0]) - 0xDC00
        return f"not UTF-8: byte {byte:#04x} after character {found.start()} of the text"
    return text_fault(text)
