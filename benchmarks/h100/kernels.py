"""What runs in a computation: kernels with their work, as often as loops repeat them."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.common.placement import KINDS
from benchmarks.h100.hlo import Computation, Instruction, Program
from benchmarks.h100.matmuls import Matmul, attention_flops, is_attention, matmuls_of
from benchmarks.h100.traffic import Traffic, traffic

_FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id "
    "opt-barrier add-dependency".split()
)
_CALLS = ("call", "async-start")


@dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
      instruction: the line.
      computation: where it stands.
      matmuls: those in it.
      attention: operations of cuDNN's attention, if it is one.
      traffic: bytes read and written.
    """

    instruction: Instruction
    computation: Computation
    matmuls: tuple[Matmul, ...]
    attention: int
    traffic: Traffic

    @property
    def flops(self) -> int:
        """Operations of its matmuls, attention's aside."""
        return sum(matmul.flops for matmul in self.matmuls)

    @property
    def kind(self) -> str:
        """`matmul`, `attention`, `collective`, or `other`."""
        if self.attention:
            return "attention"
        if self.matmuls:
            return "matmul"
        return "collective" if is_collective(self.instruction) else "other"


def is_collective(instruction: Instruction) -> bool:
    """Whether an instruction communicates, or begins to."""
    return instruction.operation in KINDS


def kernels(program: Program, name: str) -> Iterator[Kernel]:
    """Kernels directly in a computation, in order; not those of its loops."""
    computation = program[name]
    for instruction in computation.instructions:
        if instruction.opcode in _CALLS:
            assert instruction.called is not None
            yield from kernels(program, instruction.called)
        elif _is_kernel(instruction):
            yield kernel_of(program, computation, instruction)


def _is_kernel(instruction: Instruction) -> bool:
    if instruction.opcode == "conditional":
        raise ValueError(f"{instruction.name} is a branch; count programs that have loops only")
    return not (
        instruction.opcode in _FREE
        or instruction.opcode == "while"
        or instruction.opcode.endswith("-done")
    )


def kernel_of(program: Program, computation: Computation, instruction: Instruction) -> Kernel:
    """An instruction with its work."""
    attention = attention_flops(computation, instruction) if is_attention(instruction) else 0
    return Kernel(
        instruction,
        computation,
        tuple(matmuls_of(program, computation, instruction)),
        attention,
        traffic(program, computation, instruction),
    )


def loops(program: Program, name: str) -> Iterator[Instruction]:
    """Loops directly in a computation, in order."""
    for instruction in program[name].instructions:
        if instruction.opcode in _CALLS:
            assert instruction.called is not None
            yield from loops(program, instruction.called)
        elif instruction.opcode == "while":
            yield instruction


def launches(program: Program, name: str) -> Iterator[tuple[int, Kernel]]:
    """Kernels with how often they run, loops of known trips included.

    Loops of unknown trips are left out: they run zero or one time.
    """
    yield from ((1, kernel) for kernel in kernels(program, name))
    for loop in loops(program, name):
        if loop.trips is not None:
            inside = launches(program, loop.body)
            yield from ((loop.trips * times, kernel) for times, kernel in inside)


def unknown_loops(program: Program, name: str) -> Iterator[tuple[int, Instruction]]:
    """Loops of unknown trips, with how often they are reached; not those inside of them."""
    for loop in loops(program, name):
        if loop.trips is None:
            yield 1, loop
        else:
            inside = unknown_loops(program, loop.body)
            yield from ((loop.trips * times, found) for times, found in inside)
