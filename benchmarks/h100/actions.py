"""The actions of a tick in a compiled step: which loop runs which operation on which chunk."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.h100.hlo import Instruction, Program
from benchmarks.h100.kernels import Kernel, kernels, launches, loops, unknown_loops

OPERATIONS = {"forward": "F", "backward": "B", "input_backward": "I", "weight_backward": "W"}
"""Function in the executor -> letter of the operation."""
ROLES = frozenset(("_embed", "_loss", "_loss_gradient", "_embed_backward"))
"""Functions in the executor that only the first or the last stage runs."""


@dataclass(frozen=True)
class Action:
    """A loop that runs zero or one time.

    Attributes:
      name: operation and chunk, as `F0`.
      chunk: its index.
      loop: the loop.
    """

    name: str
    chunk: int
    loop: Instruction

    @property
    def body(self) -> str:
        """The computation that does the work."""
        return self.loop.body

    @property
    def operation(self) -> str:
        """Its letter."""
        return self.name[0]


def tick_loop(program: Program) -> Instruction:
    """The loop over ticks: that of the step with the most loops inside.

    Raises:
      ValueError: the program has no loop.
    """
    found = list(loops(program, program.entry))
    if not found:
        raise ValueError("the program has no loop; give the text of a pipelined training step")
    return max(found, key=lambda loop: _num_loops(program, loop.body))


def _num_loops(program: Program, name: str) -> int:
    return sum(1 + _num_loops(program, loop.body) for loop in loops(program, name))


def is_action(program: Program, loop: Instruction) -> bool:
    """Whether a loop of unknown trips does matmuls itself, not only in such loops inside of it."""
    return any(kernel.kind in ("matmul", "attention") for _, kernel in launches(program, loop.body))


@dataclass(frozen=True)
class Ticks:
    """The body of the loop over ticks.

    Attributes:
      loop: name of the loop.
      body: its computation.
      num_ticks: ticks in it, of equal actions.
      actions: those of the first, in program order.
    """

    loop: str
    body: str
    num_ticks: int
    actions: tuple[Action, ...]


def find_ticks(program: Program, *, num_chunks: int) -> Ticks:
    """Find the loop over ticks and its actions.

    Args:
      program: the step.
      num_chunks: chunks of a sequence.

    Raises:
      ValueError: the loops are not as many for each chunk and operation.
    """
    scan = tick_loop(program)
    counted: Counter[str] = Counter()
    found: dict[str, Action] = {}
    for loop in _action_loops(program, scan.body):
        operation = _operation(program, loop.body)
        chunk = counted[operation] % num_chunks
        counted[operation] += 1
        found.setdefault(f"{operation}{chunk}", Action(f"{operation}{chunk}", chunk, loop))
    num_ticks, rest = divmod(max(counted.values(), default=0), num_chunks)
    if rest or not num_ticks or len(set(counted.values())) > 1:
        raise ValueError(
            f"the loop over ticks has {dict(counted)} actions, not num_chunks={num_chunks} or a "
            "multiple of each; give the number of chunks that the program was compiled for"
        )
    return Ticks(scan.name, scan.body, num_ticks, tuple(found.values()))


def _action_loops(program: Program, name: str) -> Iterator[Instruction]:
    for _, loop in unknown_loops(program, name):
        if is_action(program, loop):
            yield loop
        else:
            yield from _action_loops(program, loop.body)


def _operation(program: Program, name: str) -> str:
    """The letter of the executor's function that most kernels come from."""
    letters: Counter[str] = Counter()
    for computation in (name, *(loop.body for loop in loops(program, name))):
        for kernel in kernels(program, computation):
            found = OPERATIONS.keys() & _executor(program, kernel)
            letters.update(OPERATIONS[function] for function in found)
    if not letters:
        raise ValueError(f"no kernel of {name} names its source line; compile with metadata")
    return letters.most_common(1)[0][0]


def is_of_role(program: Program, kernel: Kernel) -> bool:
    """Whether only the first or the last stage launches a kernel: embedding, head and loss.

    Where a stage is both, as on one GPU, no loop says so.
    """
    return not ROLES.isdisjoint(_executor(program, kernel))


def _executor(program: Program, kernel: Kernel) -> set[str]:
    """Functions of the executor that made a kernel."""
    frames = program.frames_of(kernel.instruction)
    return {frame.function for frame in frames if "/executor/" in frame.file}
