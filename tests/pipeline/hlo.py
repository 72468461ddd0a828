"""Read a compiled program: which instructions of the tick loop make a value of a buffer's size."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\S+|\([^=]*\)) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")

FREE = frozenset("tuple get-tuple-element parameter bitcast while call".split())
"""Opcodes that name or pass a value; what a loop or a call does is looked at inside it."""


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    rest: str
    is_root: bool

    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """(dtype, dims) of every array in the output."""
        found = _ARRAY.findall(self.shape)
        return [(dtype, tuple(int(d) for d in dims.split(",") if d)) for dtype, dims in found]

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split(")")[0])

    def called(self, attribute: str) -> str | None:
        match = re.search(rf"{attribute}=%?([\w.\-]+)", self.rest)
        return match.group(1) if match else None


class Module:
    """Computations of an HLO text by name."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current = None
        for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
            header = _COMPUTATION.match(line)
            if header:
                current = self.computations.setdefault(header.group(2), [])
                self.entry = header.group(2) if header.group(1) else self.entry
            elif current is not None and (match := _INSTRUCTION.match(line)):
                root, name, shape, opcode, rest = match.groups()
                current.append(Instruction(name, shape, opcode, rest, bool(root)))

    def whiles(self, computation: str) -> list[Instruction]:
        return [i for i in self.computations[computation] if i.opcode == "while"]

    def scan_body(self) -> str:
        """The body of the entry's loop that holds the most loops: the scan over ticks."""
        bodies = [loop.called("body") for loop in self.whiles(self.entry)]
        return max(bodies, key=lambda body: len(self.whiles(body)))

    def reachable(self, computation: str) -> set[str]:
        """`computation` and the loops, conditionals and calls inside it; fusion bodies not."""
        seen, todo = set(), [computation]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for instruction in self.computations[name]:
                if instruction.opcode != "fusion":
                    todo += self._callees(instruction)
        return seen

    def _callees(self, instruction: Instruction) -> list[str]:
        names = [
            instruction.called(a)
            for a in ("body", "to_apply", "true_computation", "false_computation", "calls")
        ]
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
        names += re.findall(r"[\w.\-]+", branches.group(1)) if branches else []
        return [name for name in names if name in self.computations]

    def updates_in_place(self, instruction: Instruction) -> bool:
        """Whether all results are written by updates of a slice of what came in."""
        body = self.computations.get(instruction.called("calls") or "")
        if instruction.opcode in ("dynamic-update-slice", "scatter"):
            return True
        if not body:
            return False
        by_name = {i.name: i for i in body}
        return all(self._updates_parameter(root, by_name) for root in _outputs(body[-1], by_name))

    def _updates_parameter(self, root: Instruction, by_name: Mapping[str, Instruction]) -> bool:
        if root.opcode in ("dynamic-update-slice", "scatter"):
            (updated,) = _outputs(by_name[root.operands()[0]], by_name)
            return updated.opcode == "parameter"
        return self.updates_in_place(root)

    def permutes(self, computation: str) -> int:
        """Collective permutes started by a computation."""
        return sum(_is_permute(i) for i in self.computations[computation])


def _outputs(root: Instruction, by_name: Mapping[str, Instruction]) -> Iterable[Instruction]:
    """What stands behind tuples and bitcasts."""
    if root.opcode == "tuple":
        for name in root.operands():
            yield from _outputs(by_name[name], by_name)
    elif root.opcode == "bitcast":
        yield from _outputs(by_name[root.operands()[0]], by_name)
    else:
        yield root


def _is_permute(instruction: Instruction) -> bool:
    return instruction.opcode in ("collective-permute", "collective-permute-start")


def squeezed(dims: Iterable[int]) -> tuple[int, ...]:
    """Dims up to permutation and dims of size one."""
    return tuple(sorted(d for d in dims if d != 1))


def buffer_copies(module: Module, shapes: Iterable[tuple[int, ...]]) -> list[str]:
    """Instructions of the tick loop that write a whole value of one of these shapes."""
    wanted = {squeezed(shape) for shape in shapes}
    found = []
    for name in sorted(module.reachable(module.scan_body())):
        by_name = {i.name: i for i in module.computations[name]}
        for instruction in by_name.values():
            if instruction.opcode in FREE or instruction.opcode.endswith("-start"):
                continue  # what was started is looked at where it is done
            sizes = {squeezed(dims) for _, dims in instruction.arrays()}
            writer = instruction
            if instruction.opcode.endswith("-done"):
                writer = by_name[instruction.operands()[0]]
            if sizes & wanted and not module.updates_in_place(writer):
                found.append(f"{name}: {instruction.name} = {instruction.shape} {writer.opcode}")
    return found
