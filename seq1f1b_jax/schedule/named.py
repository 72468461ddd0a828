"""What a schedule is: a generator of plans and, where it has any, its formulas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

from seq1f1b_jax.schedule.plan import Plan


class Sizes(NamedTuple):
    """The sizes of a step by the letters of the formulas: P ranks, M microbatches and so on."""

    P: int
    M: int
    C: int
    V: int = 1
    extra_warmup: int = 0
    short_warmup: bool = False

    @property
    def U(self) -> int:
        """Units of a step."""
        return self.M * self.C

    @property
    def distances(self) -> range:
        """`P-p-1` for each rank: how far it is from the last one."""
        return range(self.P - 1, -1, -1)


class InFlight(NamedTuple):
    """Units of one stage that each rank holds at its fullest, and the rule in letters.

    The count need not stop at `V*U`, all that there are.
    """

    units: Sequence[int]
    rule: str


class Bubble(NamedTuple):
    """Time that a rank waits, the rule in letters, and the machines of `simulate` it holds on."""

    time: Any
    rule: str
    machines: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """A generator of plans, and what they cost in closed form.

    Attributes:
      generate: `(*, num_ranks, num_microbatches, num_chunks) -> Plan`. It may also take
        `stages_per_rank`, `extra_warmup` and `short_warmup`, each with a default.
      in_flight: `(sizes) -> InFlight`; None: no formula is known.
      bubble: `(sizes, F, B) -> Bubble`, or `(sizes, F, I, W)` where backwards are split: the times
        of one unit on all of a rank's layers, alike for all units. None: no formula is known.
      chunked_name: of the schedule with chunks, where this one runs whole sequences; else None.
    """

    generate: Callable[..., Plan]
    in_flight: Callable[[Sizes], InFlight] | None = None
    bubble: Callable[..., Bubble] | None = None
    chunked_name: str | None = None

    def takes(self, option: str) -> bool:
        """Whether the generator has this parameter."""
        return option in signature(self.generate).parameters
