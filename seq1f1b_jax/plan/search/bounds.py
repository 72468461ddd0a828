"""What no plan beats: bounds of time and memory that need neither a lowered plan nor a simulation.

A rank begins when the first chunk has come down to it, and when it has ended its last backward,
that of the first chunk, the stages before it have theirs to run:

    step >= F of chunk 0 on the stages before + work of the rank + B of chunk 0 on them

Buffers hold at least the tokens that are alive at once, whatever their packing.
"""

from functools import lru_cache

import numpy as np

from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.work import Work
from seq1f1b_jax.schedule import Op, Plan
from seq1f1b_jax.schedule.memory.terms import Room, step_bytes
from seq1f1b_jax.schedule.simulation.lengths import peak_tokens


def least_seconds(draft: Draft, work: Work) -> float:
    """A time that the actions of a step do not undercut."""
    num_ranks, splits = draft.num_ranks, draft.outline.splits
    units = draft.config.schedule.num_microbatches
    ahead = work.seconds(Op.F)
    back = work.seconds(Op.I if splits else Op.B)
    busy = (ahead + back).sum(axis=1) * units
    own = np.array([busy[rank::num_ranks].sum() for rank in range(num_ranks)])
    before = np.concatenate([[0.0], np.cumsum(ahead[:, 0] + back[:, 0])])[:num_ranks]
    least = (before + own).max()
    if splits:
        weights = work.seconds(Op.W).sum(axis=1) * units
        all_of = [own[rank] + weights[rank::num_ranks].sum() for rank in range(num_ranks)]
        first = np.concatenate([[0.0], np.cumsum(ahead[:, 0])])[:num_ranks]
        least = max(least, (first + np.array(all_of)).max())
    return float(least)


def least_bytes(draft: Draft) -> tuple[int, int]:
    """Bytes of a device, state included, and of host memory, that no packing undercuts."""
    residuals, keys = _alive(draft.outline, draft.lengths)
    room = Room(
        layers=draft.max_layers, arena=residuals, deferred=0, cache=keys,
        loss=max(draft.lengths), prefix_slots=1, inbox_slots=1,
    )
    memory = step_bytes(draft.sizes, room)
    return draft.state.total + memory.total, memory.host


@lru_cache(maxsize=4096)
def _alive(plan: Plan, lengths: tuple[int, ...]) -> tuple[int, int]:
    """Tokens whose residuals, and whose keys and values, wait at once."""
    return peak_tokens(plan, lengths), peak_tokens(plan, lengths, until=(Op.B, Op.I))
