"""Source lines of instructions: the tables of files, functions and calls in a program's text."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_ROW = re.compile(r"^(\d+) (.*)$")
_FIELD = re.compile(r"(\w+)=(\d+)")


@dataclass(frozen=True)
class Frame:
    """One line of source that was running when an instruction was traced."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line} {self.function}"


@dataclass(frozen=True)
class Frames:
    """The tables, by number.

    Attributes:
      frames: each with the number of its caller; 0 has none.
    """

    frames: Mapping[int, tuple[Frame, int]]

    def stack(self, number: int) -> list[Frame]:
        """A frame and its callers, the innermost first."""
        found = []
        while number in self.frames:
            frame, number = self.frames[number]
            found.append(frame)
        return found


def read_frames(lines: Iterable[str]) -> Frames:
    """Read the tables at the top of a program's text; empty if it has none.

    Example:
      >>> text = '''FileNames
      ... 1 "a/model.py"
      ... FunctionNames
      ... 1 "Layer.post"
      ... FileLocations
      ... 1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=3 end_column=9}
      ... StackFrames
      ... 1 {file_location_id=1 parent_frame_id=1}'''
      >>> print(*read_frames(text.splitlines()).stack(1))
      model.py:7 post
    """
    tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    current = None
    for line in lines:
        if line in tables:
            current = tables[line]
        elif current is not None and (row := _ROW.match(line)):
            current[int(row[1])] = row[2]
        elif line.endswith("{"):
            break
    return Frames(_joined(*tables.values()))


def _joined(files, functions, locations, stack) -> dict[int, tuple[Frame, int]]:
    places = {}
    for number, text in locations.items():
        row = _fields(text)
        function = functions[row["function_name_id"]].strip('"').rsplit(".", 1)[-1]
        places[number] = Frame(files[row["file_name_id"]].strip('"'), row["line"], function)
    rows = {number: _fields(text) for number, text in stack.items()}
    # 0 is "none", so the compiler writes numbers of callers plus one; the first has none
    return {
        number: (places[row["file_location_id"]], row.get("parent_frame_id", 1) - 1)
        for number, row in rows.items()
    }


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in _FIELD.findall(text)}
