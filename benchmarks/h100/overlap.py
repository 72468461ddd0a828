"""What runs beside each collective and each copy from or to the host's memory.

That is what is between its start and its end in the order of the program.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.h100.hlo import Computation, Instruction, Program
from benchmarks.h100.kernels import is_collective, kernel_of, launches, loops

_MATMUL = ("matmul", "attention")
_COPIES = ("fusion", "copy", "dynamic-slice", "dynamic-update-slice")
"""What moves bytes where one side is the host's memory."""


@dataclass(frozen=True)
class Collective:
    """One in the text; how often it runs is not counted.

    Attributes:
      kind: as `all-gather`.
      nbytes: of its largest array.
      is_exposed: whether the device waits: no matmul runs between its start and its end.
    """

    kind: str
    nbytes: int
    is_exposed: bool


def collectives(program: Program, name: str) -> Iterator[Collective]:
    """Collectives of a computation and of its loops of known trips."""
    computation = program[name]
    for instruction in computation.instructions:
        started = _started(program, instruction)
        if is_collective(started):
            nbytes = max(shape.nbytes for shape in instruction.shapes)
            is_exposed = not _is_hidden(program, computation, instruction)
            yield Collective(started.operation, nbytes, is_exposed)
    for loop in loops(program, name):
        if loop.trips is not None:
            yield from collectives(program, loop.body)


@dataclass(frozen=True)
class HostCopy:
    """One in the text; how often it runs is not counted.

    Attributes:
      name: of the instruction that starts it.
      is_exposed: as of a `Collective`.
    """

    name: str
    is_exposed: bool


def host_copies(program: Program, name: str) -> Iterator[HostCopy]:
    """Copies from or to the host's memory, of a computation and of all its loops."""
    computation = program[name]
    for instruction in computation.instructions:
        if instruction.is_on_host and instruction.operation in _COPIES:
            yield HostCopy(instruction.name, not _is_hidden(program, computation, instruction))
    for instruction in computation.instructions:
        if instruction.opcode == "while":
            yield from host_copies(program, instruction.body)


def _started(program: Program, instruction: Instruction) -> Instruction:
    """What an instruction runs, itself or in the computation that it starts."""
    if instruction.opcode != "async-start":
        return instruction
    assert instruction.called is not None
    return program[instruction.called].root


def _is_hidden(program: Program, computation: Computation, start: Instruction) -> bool:
    if not start.is_start or '"is_sync":true' in start.attributes:
        return False
    order = computation.instructions
    begin = order.index(start) + 1
    done = {user.name for user in computation.users[start.name]}
    end = next(i for i, other in enumerate(order) if other.name in done)
    return any(_has_matmul(program, computation, other) for other in order[begin:end])


def _has_matmul(program: Program, computation: Computation, instruction: Instruction) -> bool:
    if instruction.opcode == "while":
        return any(kernel.kind in _MATMUL for _, kernel in launches(program, instruction.body))
    if instruction.operation in ("fusion", "custom-call", "dot"):
        return kernel_of(program, computation, instruction).kind in _MATMUL
    return False
