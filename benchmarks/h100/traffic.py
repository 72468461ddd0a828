"""Bytes that a kernel reads and writes: what it slices counts by slice, updates in place by update.

Each operand is read once and each result written once; caches are not modelled. A kernel that reads
an operand only through slices or gathers reads the slices. A result that is an operand updated in
place (`dynamic-update-slice`, `scatter`) costs the update.
"""

from typing import NamedTuple

from benchmarks.common.placement import KINDS
from benchmarks.h100.hlo import Computation, Instruction, Program, bits

_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Opcode -> number of the operand that holds the update."""
_WHOLE = frozenset("tuple fusion custom-call call dot sort reduce reduce-window scan".split())
"""Opcodes that may need all of an operand for one entry of the result."""


class Traffic(NamedTuple):
    """Bytes between a kernel and the device's memory."""

    read: int
    written: int

    @property
    def total(self) -> int:
        """Both."""
        return self.read + self.written


def traffic(program: Program, computation: Computation, kernel: Instruction) -> Traffic:
    """Bytes of one kernel, launched once.

    Args:
      program: the whole text.
      computation: where the kernel stands.
      kernel: an instruction that runs on the device.

    Example:
      >>> from benchmarks.h100.hlo import read_program
      >>> program = read_program('''
      ... ENTRY %main (p: f32[8,4], i: s32[]) -> f32[1,4] {
      ...   %p = f32[8,4]{1,0} parameter(0)
      ...   %i = s32[] parameter(1)
      ...   ROOT %row = f32[1,4]{1,0} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={1,4}
      ... }''')
      >>> traffic(program, program["main"], program["main"].root)
      Traffic(read=16, written=16)
    """
    if kernel.operation == "fusion":
        assert kernel.called is not None
        return _of_fusion(program[kernel.called])
    operands = computation.operands(kernel)
    read = sum(operand.nbytes for operand in operands)
    written = kernel.nbytes
    if kernel.is_start:  # of a collective in or out the larger, of others the result alone
        largest = max(shape.nbytes for shape in kernel.shapes)
        written = largest if kernel.operation in KINDS else kernel.nbytes - read
    if kernel.operation in _UPDATES:
        read = written = operands[_UPDATES[kernel.operation]].nbytes
    elif kernel.operation in _SLICES:
        read = written
    return Traffic(read, written)


def _of_fusion(inside: Computation) -> Traffic:
    parameters = (i for i in inside.instructions if i.opcode == "parameter")
    read = 0
    for parameter in parameters:
        part = _entries_read(inside, parameter)
        whole = parameter.nbytes
        read += whole if part is None else min(whole, part * bits(parameter.shapes[0].dtype) // 8)
    root = inside.root
    results = inside.operands(root) if root.opcode == "tuple" else [root]
    return Traffic(read, sum(_written(inside, result) for result in results))


def _entries_read(inside: Computation, value: Instruction) -> int | None:
    """Entries of a value that are needed; `None` if something needs all of it.

    A function of single entries, such as a cast, is computed only where its result is needed.
    """
    total = 0
    for user in inside.users[value.name]:
        first = user.operands[0] == value.name and value.name not in user.operands[1:]
        if user.opcode in _SLICES and first:
            part = _entries_of_slice(inside, user)
        elif user.opcode in _UPDATES and first:
            part = 0
        elif user.opcode not in _WHOLE and _size(user) == _size(value) and not user.is_root:
            part = _entries_read(inside, user)
        else:
            part = None
        if part is None:
            return None
        total += part
    return total


def _entries_of_slice(inside: Computation, slice_: Instruction) -> int:
    """A slice of which only slices are needed costs what these hold."""
    part = None if slice_.is_root else _entries_read(inside, slice_)
    return _size(slice_) if part is None else min(part, _size(slice_))


def _size(instruction: Instruction) -> int:
    return sum(shape.size for shape in instruction.shapes)


def _written(inside: Computation, result: Instruction) -> int:
    while result.opcode == "bitcast":
        (result,) = inside.operands(result)
    if result.opcode in _UPDATES:
        return inside.operands(result)[_UPDATES[result.opcode]].nbytes
    return result.nbytes
