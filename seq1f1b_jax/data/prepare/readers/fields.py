"""The text of one record, or what is wrong with it."""

import json
import re

CURE = "correct it, or leave such documents out with --skip-bad"
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def json_field(line: bytes | memoryview, key: str) -> tuple[str, str]:
    """The text in a field of a JSON object, and what is wrong with it (empty: nothing).

    Example:
      >>> from seq1f1b_jax.data.prepare.readers.fields import json_field
      >>> json_field(b'{"text": "one"}', "text"), json_field(b'{"text": 1}', "text")
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
        return "", f"a JSON {type(record).__name__}, not an object with the field {key!r}"
    if key not in record:
        return "", f"no field {key!r}, but {', '.join(map(repr, list(record)[:8])) or 'none'}"
    text = record[key]
    if not isinstance(text, str):
        return "", f"field {key!r} is {json.dumps(text)[:40]}, not text"
    return text, text_fault(text)


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
