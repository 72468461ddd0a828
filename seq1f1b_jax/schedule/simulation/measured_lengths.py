"""Chunk lengths by measured costs: the shortest simulated step that memory allows.

The cut whose slowest chunk is fastest is where the search begins; what counts is the step of the
executor's machine, with its warm-up and drain. From there tokens move between any two chunks as
long as that makes the step shorter. The even and the balanced cut are compared too, so in the
simulation no step is longer than theirs; and none takes more memory than the larger of the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.partition import aligned_block, balanced_lengths
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.cost_table import PROFILE
from seq1f1b_jax.schedule.simulation.lengths import NUM_WEIGHTS, SCRATCH_LAYERS
from seq1f1b_jax.schedule.simulation.many import Timetable
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts

Lengths = tuple[int, ...]

STEPS = (8, 4, 2, 1)
"""Blocks that move from one chunk to another in one trial."""
STARTS = 3
"""Cuts to begin from."""
GAIN = 1e-9
"""Part of a step's time that a move must save to be made: not rounding."""


class Found(NamedTuple):
    """What a cut comes to.

    Attributes:
      seconds: of a step in the simulation.
      memory: of the tokens in flight at the fullest moment and of the scratch of the longest chunk,
        in tokens of a layer.
    """

    seconds: float
    memory: int


@dataclass(frozen=True)
class Limits:
    """What a choice of lengths may cost.

    Attributes:
      max_growth: by how much the memory may exceed that of the known cuts: 0.05 is 5 %.
      max_slowdown: by how much a step may take longer than the fastest, to save memory.
    """

    max_growth: float = 0.0
    max_slowdown: float = 0.0


def measured_lengths(
    plan: Plan,
    cost: MeasuredCosts,
    known: Sequence[Lengths],
    *,
    block: int,
    limits: Limits = Limits(),
) -> Lengths:
    """The cut of the shortest step, by what was measured.

    Args:
      plan: the schedule.
      cost: of a chunk.
      known: the even cut, and others to be at least as fast as; they set the memory that there is.
      block: cuts fall on multiples of it; see `aligned_block`.
      limits: how much memory and time may be spent for the other.

    Returns:
      Tokens of each chunk; on one rank, where nobody waits for a slow chunk, the first known cut.

    Raises:
      ValueError: the schedule splits backwards and their halves were not measured, or chunks of
        a known cut are far from all that were.

    Example:
      >>> from seq1f1b_jax.schedule import StageCost, make_plan
      >>> from seq1f1b_jax.schedule.simulation.cost_table import CostTable, Row
      >>> from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
      >>> rows = [Row(op, n, s, (n + n * (s + n / 2) / 1024) / 1e6, 0, 0, 0.01)
      ...         for op in "FB" for n in (256, 512) for s in (0, 512)]
      >>> sizes = StageCost(model_dim=64, num_heads=4, num_kv_heads=4, head_dim=16, mlp_dim=256,
      ...                   gated=False, vocab_size=256, layers_per_stage=(2, 2))
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
      >>> cost = MeasuredCosts(CostTable(2, 1024, {}, tuple(rows)), sizes)
      >>> measured_lengths(plan, cost, [(512, 512), (704, 320)], block=64)
      (640, 384)
    """
    if plan.num_ranks == 1:
        return known[0]
    if any(action.op is Op.W for row in plan.ranks for action in row) and Op.W not in cost.parts:
        raise ValueError(
            "the schedule splits backwards into I and W, and their seconds were not measured; "
            f"profile with the same schedule: {PROFILE} --schedule.name ... "
        )
    for lengths in known:
        cost.costs(lengths)  # refuses what is far from the measurements
    seq_len, num_chunks = sum(known[0]), plan.num_chunks
    search = _Search(plan, cost)
    search.add(known)
    most = max(search.found[lengths].memory for lengths in known)
    search.max_memory = int((1 + limits.max_growth) * most)
    search.add(_mixtures(cost, seq_len, num_chunks, block=block))
    search.improve(aligned_block(seq_len, num_chunks, block=block))
    return search.choose(limits.max_slowdown)


def _mixtures(cost: MeasuredCosts, seq_len: int, num_chunks: int, *, block: int) -> list[Lengths]:
    """Cuts between the one whose slowest chunk is fastest and the even one."""
    whole, cuts = cost(0, seq_len), []
    for index in range(NUM_WEIGHTS):
        weight = index / (NUM_WEIGHTS - 1)

        def mixed(start: int, length: int, weight=weight) -> float:
            return (1 - weight) * cost(start, length) / whole + weight * length / seq_len

        cuts.append(balanced_lengths(seq_len, num_chunks, mixed, block=block))
    return cuts


class _Search:
    """Cuts that were simulated, all within the memory once that is known."""

    def __init__(self, plan: Plan, cost: MeasuredCosts) -> None:
        self._table, self._cost = Timetable(plan), cost
        self._num_layers = max(cost.layers_per_stage)
        self.found: dict[Lengths, Found] = {}
        self.max_memory: int | None = None

    def add(self, cuts: Sequence[Lengths]) -> None:
        """Simulate cuts that are new, that were measured, and for which there is memory."""
        new = [c for c in dict.fromkeys(cuts) if c not in self.found and self._cost.covers(c)]
        if not new:
            return
        memory = self._num_layers * self._table.peak_tokens(new)
        memory = [
            int(tokens) + SCRATCH_LAYERS * max(cut) for tokens, cut in zip(memory, new, strict=True)
        ]
        fits = [
            (cut, size)
            for cut, size in zip(new, memory, strict=True)
            if self.max_memory is None or size <= self.max_memory
        ]
        if fits:
            seconds = self._table.makespans([self._cost.costs(cut) for cut, _ in fits])
            for (cut, size), time in zip(fits, seconds.tolist(), strict=True):
                self.found[cut] = Found(time, size)

    def improve(self, unit: int) -> None:
        """From the fastest cuts, move tokens between chunks until no move makes a step shorter."""
        for best in sorted(self.found, key=self._order)[:STARTS]:
            while True:
                moves = list(_moves(best, unit))
                self.add(moves)
                better = min((best, *(m for m in moves if m in self.found)), key=self._order)
                if self.found[better].seconds > self.found[best].seconds * (1 - GAIN):
                    break
                best = better

    def choose(self, max_slowdown: float) -> Lengths:
        """The least memory of all that are fast enough; of these the fastest."""
        fastest = self._fastest()
        if not max_slowdown:
            return fastest
        limit = (1 + max_slowdown) * self.found[fastest].seconds
        fast = [cut for cut in self.found if self.found[cut].seconds <= limit]
        return min(fast, key=lambda cut: (self.found[cut].memory, self.found[cut].seconds))

    def _fastest(self) -> Lengths:
        return min(self.found, key=self._order)

    def _order(self, cut: Lengths) -> tuple:
        return (*self.found[cut], cut)


def _moves(lengths: Lengths, unit: int) -> Iterator[Lengths]:
    """Cuts with some blocks moved from one chunk to another; the last chunk may end in a part."""
    for count in STEPS:
        for source, target in permutations(range(len(lengths)), 2):
            if lengths[source] > count * unit:
                moved = list(lengths)
                moved[source] -= count * unit
                moved[target] += count * unit
                yield tuple(moved)
