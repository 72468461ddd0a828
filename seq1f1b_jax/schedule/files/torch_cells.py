"""The cells of torch's schedules: read as actions, and written.

`torch.distributed.pipelining` writes a schedule as a CSV of one row per rank, `0F1` for the forward
of microbatch 1 on stage 0:

    0F0,0F1,,0B0,0B1
    ,1F0,1B0,1F1,1B1

    F, B, I, W                        forward, backward and its two halves
    empty                             waiting
    (0F3;3B1)OVERLAP_F_B              two actions of one slot, here one after the other
    SEND_F, RECV_F, SEND_B, RECV_B    messages; here they follow from the order
    UNSHARD, RESHARD, REDUCE_GRAD     parameters and gradients across replicas; likewise

torch cuts no sequences. With C chunks, chunk c of microbatch m is its microbatch `m*C + c`: the
same order, which it would run as independent microbatches.
"""

import re
from collections.abc import Iterable, Iterator

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.plan import Plan

_COMPUTE = re.compile(r"(\d{1,9})([FBIW])(\d{1,9})")
_SKIPPED = re.compile(r"\d{1,9}(?:UNSHARD|RESHARD|REDUCE_GRAD|(?:SEND|RECV)_[FB]\d{1,9})")
_GROUP = re.compile(r"\(([^()]*)\)OVERLAP_F_B")


def is_torch_cell(text: str) -> bool:
    """Whether a cell starts as torch's do: a stage, then the operation; ours start with the letter.

    Example:
      >>> from seq1f1b_jax.schedule.files.torch_cells import is_torch_cell
      >>> is_torch_cell("0F1"), is_torch_cell("F1.0"), is_torch_cell("(0F3;3B1)OVERLAP_F_B")
      (True, False, True)
    """
    return text[:1].isdigit() or text.startswith("(")


def parse_torch_cell(text: str, *, num_chunks: int = 1) -> tuple[Action, ...]:
    """Read a cell.

    Args:
      text: not empty.
      num_chunks: slices C of each sequence; torch's microbatch u is chunk `u % C` of microbatch
        `u // C`.

    Returns:
      Its actions: one, two or more of an overlap, none for messages and the like.

    Raises:
      ValueError: the cell is none of those above.

    Example:
      >>> from seq1f1b_jax.schedule.files.torch_cells import parse_torch_cell
      >>> parse_torch_cell("2F5", num_chunks=2)
      (Action(op=<Op.F: 'F'>, stage=2, microbatch=2, chunk=1),)
      >>> len(parse_torch_cell("(0F3;3B1)OVERLAP_F_B")), parse_torch_cell("0SEND_F1")
      (2, ())
    """
    group = _GROUP.fullmatch(text)
    parts = group[1].split(";") if group else [text]
    return tuple(
        action for part in parts for action in _actions(part.strip(), text, num_chunks=num_chunks)
    )


def _actions(part: str, cell: str, *, num_chunks: int) -> Iterator[Action]:
    match = _COMPUTE.fullmatch(part)
    if match is not None:
        microbatch, chunk = divmod(int(match[3]), num_chunks)
        yield Action(Op(match[2]), int(match[1]), microbatch, chunk)
    elif _SKIPPED.fullmatch(part) is None:
        raise ValueError(
            f"{cell!r} is no cell of torch's schedules as far as they are known here; it should"
            " read like 0F1, (0F1;2B0)OVERLAP_F_B, 0SEND_F1, 0UNSHARD or 0REDUCE_GRAD"
        )


def torch_table(plan: Plan) -> str:
    """Write a plan as torch's CSV, chunks as microbatches.

    Args:
      plan: a valid plan with a backward for every forward.

    Raises:
      ValueError: the plan has no backward: torch's check refuses such a schedule.

    Example:
      >>> from seq1f1b_jax.schedule import make_plan
      >>> from seq1f1b_jax.schedule.files.torch_cells import torch_table
      >>> plan = make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)
      >>> print(torch_table(plan), end="")
      0F0,0F1,0B0,0B1
      1F0,1B0,1F1,1B1
    """
    if plan.forward_only:
        raise ValueError(
            f"plan {plan.name} has no backward, and torch refuses a schedule without; save it in"
            " the own format"
        )
    return "".join(f"{','.join(_texts(row, plan.num_chunks))}\n" for row in plan.ranks)


def _texts(row: Iterable[Action], num_chunks: int) -> Iterator[str]:
    for action in row:
        yield f"{action.stage}{action.op}{action.microbatch * num_chunks + action.chunk}"
