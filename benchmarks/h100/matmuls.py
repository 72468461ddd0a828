"""Floating-point operations of matmuls and of cuDNN's attention, from shapes and attributes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.h100.hlo import Computation, Instruction, Program, Shape

_DIMS = r"{name}_dim(?:ension)?s[\"]?[=:][{{\[]([\d,\" ]*)[}}\]]"
_CONTRACTED = re.compile(_DIMS.format(name="lhs_contracting"))
_BATCH = re.compile(_DIMS.format(name="lhs_batch"))
_SCORES = re.compile(r'"intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([^\]]*)\]')

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
BACKWARD_MATMULS = 2.5
"""Those of attention's backward over those of its forward: five and two."""


@dataclass(frozen=True)
class Matmul:
    """A product of two arrays.

    Attributes:
      flops: 2 per multiplication.
      contracted: terms in each sum.
      batch: products side by side, such as one per head, or parts of a sum that is split.
      result: as the matmul rounds it.
    """

    flops: int
    contracted: int
    batch: int
    result: Shape


def matmuls_of(
    program: Program, computation: Computation, kernel: Instruction
) -> Iterator[Matmul]:
    """The matmuls in a kernel: a `dot`, cuBLAS's custom call, or a fusion around a `dot`.

    Example:
      >>> from benchmarks.h100.hlo import read_program
      >>> program = read_program('''
      ... ENTRY %main (a: f32[2,8], b: f32[8,4]) -> f32[2,4] {
      ...   %a = f32[2,8]{1,0} parameter(0)
      ...   %b = f32[8,4]{1,0} parameter(1)
      ...   ROOT %c = f32[2,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
      ... }''')
      >>> [matmul.flops for matmul in matmuls_of(program, program["main"], program["main"].root)]
      [128]
    """
    if kernel.opcode == "dot" or kernel.target.startswith("__cublas$"):
        yield _matmul(computation, kernel)
    elif kernel.operation == "fusion":
        assert kernel.called is not None
        inside = program[kernel.called]
        for instruction in inside.instructions:
            if instruction.opcode in ("dot", "fusion"):
                yield from matmuls_of(program, inside, instruction)


def _matmul(computation: Computation, dot: Instruction) -> Matmul:
    left = computation.operands(dot)[0].shapes[0]
    contracted = math.prod(left.dims[i] for i in _numbers(_CONTRACTED, dot.attributes))
    result = dot.shapes[0]  # cuBLAS's second is its workspace
    batch = math.prod(left.dims[i] for i in _numbers(_BATCH, dot.attributes))
    return Matmul(2 * result.size * contracted, contracted, batch, result)


def _numbers(pattern: re.Pattern, text: str) -> list[int]:
    found = pattern.search(text)
    return [int(number) for number in re.findall(r"\d+", found[1])] if found else []


def attention_flops(computation: Computation, call: Instruction) -> int:
    """Operations of one call of cuDNN's attention; the causal one does half of its square.

    Returns:
      `4 * head_dim` per pair of query and key and head, 2.5 times that in the backward.

    Raises:
      ValueError: the call does not say how large its scores are.
    """
    dims = _numbers(_SCORES, call.attributes)  # batch, heads, queries, keys
    if len(dims) != 4:
        raise ValueError(
            f"{call.name} has scores of dims {dims}, not [batch, heads, queries, keys]; its "
            "configuration must have an intermediate_tensor_shape"
        )
    pairs = math.prod(dims)
    head_dim = computation.operands(call)[0].shapes[0].dims[-1]
    visible = 0.5 if '"CAUSAL"' in call.attributes else 1.0
    return int(4 * head_dim * pairs * visible * (BACKWARD_MATMULS if is_backward(call) else 1))


def is_attention(kernel: Instruction) -> bool:
    """Whether a kernel is cuDNN's fused attention."""
    return kernel.target.startswith("__cudnn$fmha")


def is_backward(call: Instruction) -> bool:
    """Whether a call of cuDNN's attention is its backward."""
    return call.target.endswith("Backward")
