"""The kernels with the most bytes, and the source lines that make them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from benchmarks.h100.hlo import Program, Shape
from benchmarks.h100.kernels import Kernel

PACKAGES = ("/seq1f1b_jax/", "/models/")
CALLERS = 4


def largest(
    program: Program,
    launches: Iterable[tuple[str, int, Kernel]],
    *,
    lengths: Sequence[int],
    count: int,
) -> list[dict[str, Any]]:
    """Rows of a table: bytes by operation, source lines and result, the largest first.

    Args:
      program: the step.
      launches: name of the action, times and kernel; only kernels of the kind `other` count.
      lengths: tokens of each chunk; in results `t` is a chunk's, `s` those up to a chunk's end.
      count: rows.
    """
    read, written, number = (defaultdict(int) for _ in range(3))
    names = dict.fromkeys(accumulate(lengths), "s") | dict.fromkeys(lengths, "t")
    for action, times, kernel in launches:
        if kernel.kind == "other":
            result = " ".join(_result(shape, names) for shape in kernel.instruction.shapes)
            key = (action[0], lines_of(program, kernel), result)
            read[key] += times * kernel.traffic.read
            written[key] += times * kernel.traffic.written
            number[key] += times
    order = sorted(number, key=lambda key: -read[key] - written[key])
    return [
        {
            "of": key[0], "gb": (read[key] + written[key]) / 1e9, "read": read[key] / 1e9,
            "written": written[key] / 1e9, "kernels": number[key], "result": key[2],
            "lines": key[1],
        }
        for key in order[:count]
    ]


def lines_of(program: Program, kernel: Kernel) -> str:
    """The innermost lines of our own code that made a kernel."""
    frames = program.frames_of(kernel.instruction)
    own = [frame for frame in frames if any(package in frame.file for package in PACKAGES)]
    return " < ".join(map(str, own[:CALLERS])) or "none"


def _result(shape: Shape, names: Mapping[int, str]) -> str:
    return f"{shape.dtype}[{','.join(names.get(dim, str(dim)) for dim in shape.dims)}]"
