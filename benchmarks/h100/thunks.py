"""Command buffers, and reads of loop conditions by the host, from the compiler's list of thunks.

A thunk is what the host launches. Those in a command buffer are launched together, and a loop there
repeats on the device. The host reads the condition of every other loop whose trips the compiler
does not know: once if it does not run, twice if it runs once. With `--xla_dump_to` the compiler
writes the list (`thunk_sequence_after_thunk_passes`) and the names (`thunk_metadata`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.h100.actions import Ticks, is_action
from benchmarks.h100.hlo import Instruction, Program
from benchmarks.h100.kernels import unknown_loops

_THUNK = re.compile(r"^( *)(\d+): (k\w+)")
_NAME = re.compile(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)')


@dataclass(frozen=True)
class Thunks:
    """Names of loops, and of what is around them.

    Attributes:
      inside: loop -> loops and command buffers around it, the outermost first.
      buffers: for each command buffer the loops and command buffers around it.
    """

    inside: Mapping[str, tuple[str, ...]]
    buffers: tuple[tuple[str, ...], ...]

    def is_captured(self, loop: str) -> bool:
        """Whether a loop is in a command buffer."""
        return BUFFER in self.inside[loop]

    def num_buffers(self, loop: str) -> int:
        """Command buffers in a loop."""
        return sum(loop in around for around in self.buffers)


BUFFER = "command buffer"


def read_thunks(sequence: str, metadata: str) -> Thunks:
    """Parse the two dumps.

    Example:
      >>> sequence = '''000: kWhile [source | sink]
      ...   body:
      ...     000: kCommandBuffer [source | sink]
      ...         001: kWhile [source | sink]'''
      >>> metadata = '''profile_annotation: "while.1"
      ... thunk_id: 0
      ... profile_annotation: "while.2"
      ... thunk_id: 1'''
      >>> read_thunks(sequence, metadata).inside["while.2"]
      ('while.1', 'command buffer')
    """
    names = {int(number): name for name, number in _NAME.findall(metadata)}
    inside: dict[str, tuple[str, ...]] = {}
    buffers: list[tuple[str, ...]] = []
    around: list[tuple[int, str]] = []
    for line in sequence.splitlines():
        if not (found := _THUNK.match(line)):
            continue
        indent, number, kind = len(found[1]), int(found[2]), found[3]
        while around and around[-1][0] >= indent:
            around.pop()
        outer = tuple(name for _, name in around)
        if kind == "kCommandBuffer":
            buffers.append(outer)
            around.append((indent, BUFFER))
        elif kind == "kWhile":
            inside[names[number]] = outer
            around.append((indent, names[number]))
    return Thunks(inside, tuple(buffers))


def host_reads(program: Program, thunks: Thunks, ticks: Ticks) -> tuple[float, float]:
    """Reads by the host in a tick in which no action runs, and in one in which one does.

    Args:
      program: the step.
      thunks: of the same compilation.
      ticks: its loop over ticks.

    Returns:
      Both counts. The second is the largest over actions; everything inside the action runs, as on
      a stage that is both first and last.
    """
    top = list(_read(program, thunks, ticks.body))
    idle = sum(times for times, _ in top) / ticks.num_ticks
    return idle, idle + max((_more(program, thunks, loop) for _, loop in top), default=0)


def _read(program: Program, thunks: Thunks, name: str) -> Iterator[tuple[int, Instruction]]:
    for times, loop in unknown_loops(program, name):
        if not thunks.is_captured(loop.name):
            yield times, loop


def _more(program: Program, thunks: Thunks, loop: Instruction) -> int:
    """Reads that a loop adds if it runs: the condition once more, and those inside."""
    inner = [
        (times, times * _more(program, thunks, found))
        for times, found in _read(program, thunks, loop.body)
    ]
    once, more = (sum(times for times, _ in inner), [extra for _, extra in inner])
    return 1 + once + (sum(more) if is_action(program, loop) else max(more, default=0))
