"""Which ranks swap messages in which ticks: a static pattern of two ticks, part of every table.

A `ppermute` is a rendezvous of its pairs only, so the pattern decides which ranks wait for which:

    parity     in tick h the neighbours (a, a+1) with a = h (mod 2) exchange, both ways: a has run
               F and sends down, a+1 has run B and sends up. A rank meets one neighbour a tick, and
               the step takes the time of asynchronous 1F1B. For a line of stages: around a ring
               the small delays between neighbours would have to add up to zero, so there most
               orders are slower by it, and an odd ring has no such pattern.
    lockstep   in even ticks every rank may run F and sends to the next one, in odd ticks every
               rank may run B and sends to the one before. What a tick sends is read two ticks
               later at the earliest, so it travels *late*, beside the action of the next tick: a
               rank waits only for a neighbour that is more than an action behind. For rings, and
               for lines on purpose.
"""

from enum import StrEnum

from seq1f1b_jax.schedule.actions import Op

PERIOD = 2
"""Ticks after which the pattern repeats; the body of the executor's scan holds as many."""

Pairs = tuple[tuple[int, int], ...]
"""(source, destination) of every message of a tick."""


class Exchange(StrEnum):
    """A pattern of exchanges by name."""

    PARITY = "parity"
    LOCKSTEP = "lockstep"

    @classmethod
    def parse(cls, name: str) -> "Exchange":
        """Look a pattern up.

        Raises:
          ValueError: the name is unknown.
        """
        if name not in [member.value for member in cls]:
            raise ValueError(f"exchange={name!r} is unknown; use one of {', '.join(cls)}")
        return cls(name)

    @classmethod
    def of_line_or_ring(cls, stages_per_rank: int) -> "Exchange":
        """The default pattern: ranks that hold several stages make a ring.

        Example:
          >>> from seq1f1b_jax.schedule import Exchange
          >>> Exchange.of_line_or_ring(2)
          <Exchange.LOCKSTEP: 'lockstep'>
        """
        return cls.PARITY if stages_per_rank == 1 else cls.LOCKSTEP

    def tick_class(self, op: Op, rank: int) -> int:
        """Ticks modulo `PERIOD` in which a rank may run an operation that sends a message.

        Args:
          op: `F`, or `B` or `I`, which both send a gradient.
          rank: of the pipeline.
        """
        backward = int(op is not Op.F)
        return (rank + backward) % 2 if self is Exchange.PARITY else backward

    @property
    def late(self) -> bool:
        """Whether a message travels in the tick after its action, not in the same one.

        Under `LOCKSTEP` an F reads what an F has sent, and those are two ticks apart, as are Bs.
        """
        return self is Exchange.LOCKSTEP

    def pairs(self, tick: int, *, num_ranks: int, ring: bool) -> Pairs:
        """Pairs of the messages that are sent in a tick.

        Args:
          tick: only its remainder modulo `PERIOD` counts.
          num_ranks: ranks P.
          ring: whether the last rank sends down to the first, as stages need.

        Returns:
          Sources and destinations; no rank is twice on either side.

        Raises:
          ValueError: `PARITY` on a ring of an odd number of ranks, which two colours cannot colour.

        Example:
          >>> from seq1f1b_jax.schedule import Exchange
          >>> Exchange.PARITY.pairs(0, num_ranks=5, ring=False)
          ((0, 1), (2, 3), (1, 0), (3, 2))
        """
        down = [(a, (a + 1) % num_ranks) for a in range(num_ranks if ring else num_ranks - 1)]
        up = [(b, a) for a, b in down]
        if self is Exchange.LOCKSTEP:
            return tuple(down if tick % 2 == 0 else up)
        if ring and num_ranks % 2:
            raise ValueError(
                f"exchange 'parity' on a ring of num_ranks={num_ranks} would have a rank meet two"
                " neighbours in one tick; use an even number of ranks, or 'lockstep'"
            )
        return (*down[tick % 2 :: 2], *up[tick % 2 :: 2])
