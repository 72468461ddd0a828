"""The plans of the shared suite: every schedule, with its options, on a grid of sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

from seq1f1b_jax.schedule import SCHEDULES, Plan, TickTable, forward_plan, lower, make_plan

OPTIONS = {
    "stages_per_rank": (2, 3),
    "extra_warmup": (0, 1, 2),
    "short_warmup": (False, True),
}
"""What is tried of each option that a generator takes; the first is the default."""


@dataclass(frozen=True, eq=False)
class Case:
    """A plan and what it was made with.

    Attributes:
      name: of the schedule; `forward` for evaluation.
      sizes: what `make_plan` and `closed_form` take beside the name.
      plan: what was made.
    """

    name: str
    sizes: dict[str, Any]
    plan: Plan

    @cached_property
    def table(self) -> TickTable:
        """The plan lowered with equal chunks."""
        return lower(self.plan, (7,) * self.plan.num_chunks)

    def __str__(self) -> str:
        return f"{self.name} {self.sizes}"


@cache
def cases_of(name: str) -> tuple[Case, ...]:
    """P to 6, M to 5, C to 5: all of them with the default options, a third with each other."""
    if name == "forward":
        return tuple(Case(name, sizes, forward_plan(**sizes)) for sizes in _evaluation_sizes())
    return tuple(Case(name, sizes, make_plan(name, **sizes)) for sizes in _sizes(name))


def _sizes(name: str) -> Iterator[dict[str, Any]]:
    chunks = (1,) if SCHEDULES[name].chunked_name else range(1, 6)
    taken = [option for option in OPTIONS if SCHEDULES[name].takes(option)]
    for nth, values in enumerate(product(*(OPTIONS[option] for option in taken))):
        options = dict(zip(taken, values, strict=True))
        for index, (p, m, c) in enumerate(product(range(1, 7), range(1, 6), chunks)):
            if nth == 0 or index % 3 == nth % 3:
                yield {"num_ranks": p, "num_microbatches": m, "num_chunks": c, **options}


def _evaluation_sizes() -> Iterator[dict[str, Any]]:
    for p, m, c, v in product(range(1, 7), (1, 2, 5), (1, 2, 5), (1, 2, 3)):
        yield {"num_ranks": p, "num_microbatches": m, "num_chunks": c, "stages_per_rank": v}
