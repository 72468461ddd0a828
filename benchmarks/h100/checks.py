"""What a program should not do: keep scores in memory, or round weight gradients before the sum."""

from collections.abc import Iterable

from benchmarks.h100.hlo import bits
from benchmarks.h100.kernels import Kernel
from benchmarks.h100.matmuls import Matmul

Launches = Iterable[tuple[int, Kernel]]


def score_bytes(launches: Launches, *, num_heads: int, head_dim: int) -> int:
    """Bytes of attention scores that kernels read from memory and write to it.

    A score array is one whose dims are those of a matmul per head over `head_dim`: `q k'` and
    `dout v'`. Every operand and result of these dims counts.

    Args:
      launches: kernels of an action.
      num_heads: heads that attention computes side by side on a device.
      head_dim: width of a head; no block of queries or keys may be as long.
    """
    launched = list(launches)
    dims = {
        matmul.result.long_dims
        for _, kernel in launched
        for matmul in kernel.matmuls
        if matmul.batch % num_heads == 0 and matmul.contracted == head_dim
    }
    total = 0
    for times, kernel in launched:
        values = (*kernel.computation.operands(kernel.instruction), kernel.instruction)
        shapes = (shape for value in values for shape in value.shapes)
        total += times * sum(shape.nbytes for shape in shapes if shape.long_dims in dims)
    return total


def rounded_weight_gradients(launches: Launches, *, num_tokens: int) -> int:
    """Matmuls that sum over all tokens of a chunk and round the sums to fewer than 32 bits.

    Args:
      launches: kernels of an action.
      num_tokens: of its chunk. If this is also a width of the model, other matmuls count, too.
    """
    return sum(
        times
        for times, kernel in launches
        for matmul in kernel.matmuls
        if matmul.contracted * matmul.batch == num_tokens and _is_rounded(kernel, matmul)
    )


def _is_rounded(kernel: Kernel, matmul: Matmul) -> bool:
    """By the matmul, or, where its sum is split, by what adds the parts."""
    dtypes = [matmul.result.dtype]
    if matmul.batch > 1:
        users = kernel.computation.users[kernel.instruction.name]
        dtypes += [shape.dtype for user in users for shape in user.shapes]
    return any(0 < bits(dtype) < 32 for dtype in dtypes)
