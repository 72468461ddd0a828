"""The text of a compiled program as instructions with shapes, operands and source lines."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from benchmarks.h100.frames import Frame, Frames, read_frames

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_HOST = "S(5)"
"""The compiler's number of the host's pinned memory, in the layout of an array."""
_FRAME = re.compile(r"stack_frame_id=(\d+)")


@dataclass(frozen=True)
class Shape:
    """An array: the compiler's name of its dtype, and its dims."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes; 0 for a token."""
        return -(-self.size * bits(self.dtype) // 8)

    @property
    def long_dims(self) -> tuple[int, ...]:
        """Dims without those of one, in ascending order: the same for every view of an array."""
        return tuple(sorted(dim for dim in self.dims if dim > 1))


def bits(dtype: str) -> int:
    """Bits of an entry in memory.

    Example:
      >>> bits("bf16"), bits("pred"), bits("f8e4m3fn"), bits("token")
      (16, 8, 8, 0)
    """
    if dtype == "pred":
        return 8
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without `%`.
      opcode: as `fusion`.
      shapes: of the result; those of a tuple flat.
      operands: names; of a parameter its number, of a constant its value.
      attributes: what follows the operands.
      is_root: whether it is the computation's result.
      is_on_host: whether a part of the result is in host memory, or, of one that only starts, an
        operand.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool = False
    is_on_host: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.nbytes for shape in self.shapes)

    @property
    def operation(self) -> str:
        """The opcode, of an asynchronous one what it starts: `fusion` of `fusion-start`."""
        return self.opcode.removesuffix("-start")

    @property
    def is_start(self) -> bool:
        """Whether it only starts; the result then holds the operands, too."""
        return self.opcode.endswith("-start")

    @cached_property
    def called(self) -> str | None:
        """The computation that a fusion or a call runs."""
        return _first(_CALLED, self.attributes)

    @cached_property
    def body(self) -> str:
        """The computation that a loop repeats."""
        return _BODY.search(self.attributes)[1]  # pyright: ignore[reportOptionalSubscript]

    @cached_property
    def trips(self) -> int | None:
        """How often a loop runs, if the compiler knows."""
        found = _first(_TRIPS, self.attributes)
        return None if found is None else int(found)

    @cached_property
    def target(self) -> str:
        """What a custom call calls; empty for other instructions."""
        return _first(_TARGET, self.attributes) or ""


@dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def named(self) -> Mapping[str, Instruction]:
        """Instructions by name."""
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def users(self) -> Mapping[str, list[Instruction]]:
        """Of each name the instructions that read it."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.named}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                if operand in found:
                    found[operand].append(instruction)
        return found

    @property
    def root(self) -> Instruction:
        """The result."""
        return next(i for i in reversed(self.instructions) if i.is_root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions whose results one reads."""
        return [self.named[name] for name in instruction.operands if name in self.named]


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: by name.
      entry: name of the first.
      frames: where instructions come from.
    """

    computations: Mapping[str, Computation]
    entry: str
    frames: Frames

    def __getitem__(self, name: str) -> Computation:
        return self.computations[name]

    def frames_of(self, instruction: Instruction) -> list[Frame]:
        """Source lines that made an instruction, the innermost first."""
        found = _first(_FRAME, instruction.attributes)
        return [] if found is None else self.frames.stack(int(found))


def read_program(text: str) -> Program:
    """Parse `compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.

    Example:
      >>> import jax
      >>> compiled = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((4, 4), "float32")).compile()
      >>> program = read_program(compiled.as_text())
      >>> program[program.entry].root.shapes
      (Shape(dtype='f32', dims=(4, 4)),)
    """  # noqa: E501
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    lines = text.splitlines()
    for line in lines:
        if line.endswith("{") and (header := _HEADER.match(line)):
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(_instruction(match[2], match[3], is_root=bool(match[1])))
    if not entry:
        raise ValueError("the text has no computation 'ENTRY'; give the text of a compiled program")
    computations = {name: Computation(name, tuple(inside)) for name, inside in found.items()}
    return Program(computations, entry, read_frames(lines))


def _instruction(name: str, rest: str, *, is_root: bool) -> Instruction:
    rest = _COMMENT.sub("", rest)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, call = rest[:end], rest[end:].lstrip()
    opening = call.index("(")
    closing = _closing(call, opening)
    operands = tuple(
        part.split(" ")[-1].lstrip("%") for part in _parts(call[opening + 1 : closing])
    )
    shapes = tuple(_shapes(result))
    return Instruction(
        name, call[:opening], shapes, operands, call[closing + 1 :], is_root, _HOST in result
    )


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, dims in _SHAPE.findall(text):
        yield Shape(dtype, tuple(int(dim) for dim in dims.split(",") if dim))


def _closing(text: str, opening: int) -> int:
    """Index of the bracket that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"no bracket closes the one at {opening} in {text[:80]!r}")


def _parts(text: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    parts, depth, begin = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[begin:index].strip())
            begin = index + 1
    last = text[begin:].strip()
    return parts + [last] if last else parts


def _first(pattern: re.Pattern, text: str) -> str | None:
    found = pattern.search(text)
    return found[1] if found else None
