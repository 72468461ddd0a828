"""A schedule as data: for every rank the ordered list of its actions."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.exchange import Exchange

_HEADER = re.compile(
    r"(\S+) (?:ranks|stages)=(\d{1,9}) microbatches=(\d{1,9}) chunks=(\d{1,9})"
    r"(?: (?:stages_per_rank|virtual)=(\d{1,9}))?(?: exchange=(\w+))?"
)


class PlanError(ValueError):
    """A plan that cannot run; the message says why and draws the grid with the bad cell marked.

    Attributes:
      rank: row of the cell.
      index: column of the cell, in actions; the length of the row where an action is missing.
    """

    def __init__(self, message: str, rank: int, index: int) -> None:
        super().__init__(message)
        self.rank, self.index = rank, index

    def __reduce__(self) -> tuple:
        """Pickle with all arguments, for errors of other processes."""
        return type(self), (str(self), self.rank, self.index)


@dataclass(frozen=True)
class Plan:
    """The order of work of every rank. Nothing here is a time: ranks wait for their messages.

    A plan may be wrong; `validate` decides.

    Attributes:
      name: of the generator, without spaces.
      num_ranks: ranks of the pipeline P.
      num_microbatches: sequence batches per step M.
      num_chunks: slices of each sequence C.
      ranks: `ranks[p]` holds the actions of rank p in the order in which it runs them.
      stages_per_rank: stages per rank V. Stages count from 0 to P*V-1 along the model, and
        stage s is on rank s mod P, so that a message always goes to the next rank of a ring.
      exchange: which ranks swap messages in which ticks, see `Exchange`.

    Raises:
      ValueError: a size is below 1, the name has spaces, or the rows are not one per rank.
    """

    name: str
    num_ranks: int
    num_microbatches: int
    num_chunks: int
    ranks: tuple[tuple[Action, ...], ...]
    stages_per_rank: int = 1
    exchange: Exchange = Exchange.PARITY

    def __post_init__(self) -> None:
        """Refuse sizes that no plan can have."""
        check_sizes(
            num_ranks=self.num_ranks,
            num_microbatches=self.num_microbatches,
            num_chunks=self.num_chunks,
            stages_per_rank=self.stages_per_rank,
        )
        if not self.name or len(self.name.split()) != 1:
            raise ValueError(f"plan name {self.name!r} must be one word, without spaces")
        if len(self.ranks) != self.num_ranks:
            raise ValueError(
                f"a plan of num_ranks={self.num_ranks} has {len(self.ranks)} rows;"
                " write one row per rank"
            )

    @property
    def num_units(self) -> int:
        """Units of one step: microbatches times chunks."""
        return self.num_microbatches * self.num_chunks

    @property
    def num_stages(self) -> int:
        """Groups of layers in all: ranks times stages per rank."""
        return self.num_ranks * self.stages_per_rank

    @property
    def forward_only(self) -> bool:
        """True for an evaluation plan, one that holds no backward at all."""
        return all(action.op is Op.F for rank in self.ranks for action in rank)

    @property
    def splits(self) -> bool:
        """Whether backwards are split into `I` and `W`."""
        return any(action.op is Op.W for action in self.ranks[0])

    def rank(self, stage: int) -> int:
        """Rank that holds a stage."""
        return stage % self.num_ranks

    def text(self) -> str:
        """Write the plan: a header with the sizes, then one line of actions per rank.

        A rank without actions is written as `-`.

        Example:
          >>> from seq1f1b_jax.schedule import make_plan
          >>> print(make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1).text())
          1f1b ranks=2 microbatches=2 chunks=1 exchange=parity
          F0.0 F1.0 B0.0 B1.0
          F0.0 B0.0 F1.0 B1.0
        """
        header = (
            f"{self.name} ranks={self.num_ranks} microbatches={self.num_microbatches}"
            f" chunks={self.num_chunks}"
        )
        header += f" stages_per_rank={self.stages_per_rank}" * (self.stages_per_rank > 1)
        header += f" exchange={self.exchange}"
        rows = (" ".join(a.text(rank) for a in row) or "-" for rank, row in enumerate(self.ranks))
        return "\n".join((header, *rows))

    @classmethod
    def parse(cls, text: str) -> "Plan":
        r"""Read what `text` wrote.

        A header without an exchange means `parity`, and `lockstep` where ranks hold several stages.

        Raises:
          ValueError: the header or an action cannot be read, or the sizes do not fit the rows.

        Example:
          >>> from seq1f1b_jax.schedule import Plan
          >>> Plan.parse("mine ranks=1 microbatches=1 chunks=1\nF0.0 B0.0").name
          'mine'
        """
        header, *rows = text.strip("\n").split("\n")
        ranks = tuple(
            tuple(Action.parse(word, rank) for word in row.split() if word != "-")
            for rank, row in enumerate(rows)
        )
        return plan_under(header, ranks)


def plan_under(header: str, ranks: tuple[tuple[Action, ...], ...]) -> Plan:
    """Put a plan together from its header and the actions of its ranks.

    Args:
      header: as `Plan.text` writes it; `stages_per_rank` and `exchange` may be left out, and
        earlier versions wrote `stages` and `virtual`.
      ranks: of the plan.

    Raises:
      ValueError: the header cannot be read, or the sizes do not fit the rows.

    Example:
      >>> from seq1f1b_jax.schedule.plan import plan_under
      >>> plan_under("mine ranks=1 microbatches=1 chunks=1 stages_per_rank=2", ((),)).exchange
      <Exchange.LOCKSTEP: 'lockstep'>
    """
    match = _HEADER.fullmatch(header)
    if match is None:
        raise ValueError(
            f"plan header {header!r} must read like 'seq1f1b ranks=2 microbatches=2 chunks=1',"
            " with stages_per_rank=2 behind it where a rank holds two stages, and exchange=parity"
            " or exchange=lockstep, or neither, at the end"
        )
    name, ranks_, microbatches, chunks, several, exchange = match.groups()
    stages_per_rank = int(several or 1)
    return Plan(
        name,
        int(ranks_),
        int(microbatches),
        int(chunks),
        ranks,
        stages_per_rank=stages_per_rank,
        exchange=(
            Exchange.parse(exchange) if exchange else Exchange.of_line_or_ring(stages_per_rank)
        ),
    )


def check_sizes(**sizes: int) -> None:
    """Refuse a count below 1.

    Raises:
      ValueError: one of them is.
    """
    for size, count in sizes.items():
        if count < 1:
            raise ValueError(f"{size}={count} must be at least 1")


def peak_units(plan: Plan) -> tuple[int, ...]:
    """Count the units whose residuals each rank holds at its fullest moment.

    Order alone decides it: a unit lives from its forward to its backward, or to the second half of
    it. With several stages per rank it counts once for each, and is a V-th of the rank's layers.

    Returns:
      One count per rank; 0 where the plan has no backward, since nothing is kept then.
    """
    if plan.forward_only:
        return (0,) * plan.num_ranks
    return tuple(_peak(row) for row in plan.ranks)


_CHANGE = {Op.F: 1, Op.B: -1, Op.I: 0, Op.W: -1}


def _peak(row: Iterable[Action]) -> int:
    live = peak = 0
    for action in row:
        live += _CHANGE[action.op]
        peak = max(peak, live)
    return peak
