"""The orders of torch.distributed.pipelining, as torch writes them, and torch's check of ours.

Nothing runs: torch only generates the orders. Needs the extra `torch`, whose functions for loading
and checking are private; written against torch 2.13.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple


class Order(NamedTuple):
    """A schedule of torch's at one size.

    Attributes:
      name: of torch's class, without `Schedule`.
      P: ranks.
      M: microbatches.
      V: stages per rank.
    """

    name: str
    P: int
    M: int
    V: int

    @property
    def text(self) -> str:
        """Name of the file of the order, without suffix."""
        return f"{self.name}_P{self.P}_M{self.M}_V{self.V}"


LINES = ((2, 2), (2, 4), (3, 3), (3, 5), (4, 4), (4, 7), (4, 8), (8, 8))
RINGS = ((2, 2, 2), (2, 4, 2), (2, 4, 3), (3, 3, 2), (3, 6, 2), (4, 4, 2), (4, 7, 2), (4, 8, 3))
V_SHAPED = (Order("ZBVZeroBubble", 2, 4, 2), Order("DualPipeV", 2, 6, 2))
"""Orders whose placement of stages the executor does not support."""


def all_orders() -> Iterator[Order]:
    """Every order of the grid whose placement the executor supports."""
    for name in ("GPipe", "1F1B"):
        yield from (Order(name, *sizes, 1) for sizes in LINES)
    for name in ("Interleaved1F1B", "InterleavedZeroBubble", "LoopedBFS"):
        yield from (Order(name, *sizes) for sizes in RINGS)
    for P, M in ((2, 4), (3, 3), (3, 6), (4, 4), (4, 7), (4, 8)):
        yield Order("InterleavedZeroBubble", P, M, 1)


def write_order(order: Order, folder: Path, *, repaired: bool = True) -> Path:
    """Write an order as torch's `_dump_csv` does.

    Args:
      order: what to write.
      folder: an existing folder.
      repaired: give the last rank of 1F1B the microbatches that torch runs there. In the list of
        torch 2.13 its forwards count from 1, which torch's own check refuses; the list is not what
        it runs.
    """
    rows = _rows(order)
    if order.name == "1F1B" and repaired:
        rows[-1] = [_one_less(cell) for cell in rows[-1]]
    path = folder / f"{order.text}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def check_with_torch(path: Path, order: Order) -> None:
    """Have torch load a file, check it, and add its messages.

    Args:
      path: of a CSV of compute actions.
      order: its sizes.

    Raises:
      AssertionError: torch refuses it.
    """
    from torch.distributed.pipelining import schedules

    runtime = schedules._PipelineScheduleRuntime(_stages(order), order.M, loss_fn=_loss)
    runtime._load_csv(str(path), format="compute_only")
    actions = {rank: list(row) for rank, row in runtime.pipeline_order.items()}
    placed = schedules._validate_schedule(actions, order.P, order.P * order.V, order.M)
    assert placed == {stage: stage % order.P for stage in range(order.P * order.V)}


def _rows(order: Order) -> list[list[str]]:
    from torch.distributed.pipelining import schedules

    kind = getattr(schedules, f"Schedule{order.name}")
    if issubclass(kind, schedules.PipelineScheduleSingle):
        rows = kind(_stages(order)[0], order.M, loss_fn=_loss)._get_pipeline_order()
    else:
        rows = kind(_stages(order), order.M, loss_fn=_loss).pipeline_order
    return [["" if cell is None else str(cell) for cell in rows[rank]] for rank in range(order.P)]


def _stages(order: Order) -> list[SimpleNamespace]:
    """What a schedule reads from the stages of rank 0."""
    return [
        SimpleNamespace(
            num_stages=order.P * order.V, group_size=order.P, group_rank=0,
            stage_index=order.P * local, is_first=local == 0, is_last=False, has_backward=True,
            submod=None,
        )
        for local in range(order.V)
    ]  # fmt: skip


def _loss(output, target):
    """Torch wants one for a schedule that has backwards."""
    raise NotImplementedError("nothing runs here")


def _one_less(cell: str) -> str:
    stage, letter, microbatch = cell.partition("F")
    return f"{stage}F{int(microbatch) - 1}" if letter and microbatch.isdigit() else cell
