"""The order of work that a configuration asks for: its plan, and how sequences are cut."""

import math
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate

from seq1f1b_jax.config import Config, ScheduleConfig
from seq1f1b_jax.paths import one_line
from seq1f1b_jax.schedule import (
    Plan,
    StageCost,
    TickTable,
    even_lengths,
    explicit_lengths,
    lower,
    make_plan,
    tiled_lengths,
)
from seq1f1b_jax.schedule.files.plan_file import load_plan
from seq1f1b_jax.schedule.plan import PlanError
from seq1f1b_jax.schedule.simulation.lengths import frugal_lengths
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from seq1f1b_jax.schedule.simulation.measured_lengths import Limits, measured_lengths


def choose_plan(schedule: ScheduleConfig, *, num_ranks: int) -> tuple[Plan, tuple[str, ...]]:
    """The named schedule at the run's sizes, or the plan of a file.

    A file of torch's cells is read with the run's chunks, since torch has none.

    Returns:
      The plan, and messages about it: the exchange, where the file names none.

    Raises:
      ValueError: an unknown name, options that it does not take, a file that holds no valid plan,
        or one of other sizes.

    Example:
      >>> from seq1f1b_jax.config import ScheduleConfig
      >>> from seq1f1b_jax.plan.order import choose_plan
      >>> plan, messages = choose_plan(ScheduleConfig(name="Seq1F1B"), num_ranks=2)
      >>> plan.name, plan.num_units, messages
      ('seq1f1b', 32, ())
    """
    sizes = {
        "num_ranks": num_ranks,
        "num_microbatches": schedule.num_microbatches,
        "num_chunks": schedule.num_chunks,
    }
    if schedule.plan is None:
        plan = named_plan(
            schedule.name, **sizes, stages_per_rank=schedule.stages_per_rank,
            extra_warmup=schedule.extra_warmup, short_warmup=schedule.short_warmup,
        )
        return plan, ()
    shown = f"schedule.plan={one_line(schedule.plan)}"
    try:
        plan, exchange = load_plan(schedule.plan, num_chunks=schedule.num_chunks)
    except PlanError as error:
        reason, *grid = str(error).splitlines()
        show = "; python -m seq1f1b_jax.explore FILE shows it in the grid" * bool(grid)
        raise PlanError(reason.rstrip(":") + show, error.rank, error.index) from error
    if plan.forward_only:
        raise ValueError(
            f"{shown} holds no backward; a plan to train with has a B, or an I and a W, for every "
            "F"
        )
    settings = dict(zip(sizes, ("mesh.pipe", "schedule.num_microbatches", "schedule.num_chunks"),
        strict=True))
    for size, wanted in sizes.items():
        if getattr(plan, size) != wanted:
            raise ValueError(
                f"{shown} has {size}={getattr(plan, size)}, the run {wanted}; use "
                f"--{settings[size]} {getattr(plan, size)}"
            )
    return plan, (f"{shown}: {exchange}",) * bool(exchange)


def chunk_lengths(
    config: Config, cost: StageCost, *, plan: Plan, tile: int | None,
    measured: MeasuredCosts | None = None,
) -> tuple[int, ...]:
    """Tokens of each chunk, by the setting of `schedule.partition` or as listed.

    Args:
      config: of the run.
      cost: of a chunk.
      plan: the schedule; on one rank nobody waits for a costly chunk.
      tile: tokens of attention's tile, which `balanced` chunks are made of where that costs little;
        None: it has none.
      measured: the cost in seconds, for `measured`.
    """
    schedule, seq_len = config.schedule, config.data.seq_len
    if schedule.chunk_lengths is not None:
        return explicit_lengths(seq_len, schedule.chunk_lengths)
    even = _even(seq_len, schedule.num_chunks, schedule.block)
    if schedule.partition == "even":
        return even
    balanced = _balanced(config, cost, plan=plan, tile=tile or schedule.block)
    if schedule.partition == "balanced" or measured is None:
        return balanced
    limits = Limits(max_growth=schedule.max_growth, max_slowdown=schedule.max_slowdown)
    in_tiles = tile and not any(end % tile for end in accumulate(balanced))
    block = tile if tile and in_tiles else schedule.block
    return measured_lengths(plan, measured, (even, balanced), block=block, limits=limits)


def _balanced(config: Config, cost: StageCost, *, plan: Plan, tile: int) -> tuple[int, ...]:
    """Chunks of equal cost; on one rank, where nobody waits for a costly one, even ones."""
    schedule, seq_len = config.schedule, config.data.seq_len
    if plan.num_ranks > 1 and (schedule.max_slowdown or cost.visible_keys is not None):
        cut = partial(
            tiled_lengths, seq_len, schedule.num_chunks, block=schedule.block, tile=tile
        )
        return frugal_lengths(
            plan, cost, cut, seq_len=seq_len, max_slowdown=schedule.max_slowdown
        )
    alike = None
    if plan.num_ranks > 1:
        # `none` costs what `selective` does, and sequences beside each other cost the same
        policy = "selective" if cost.recompute == "none" else cost.recompute
        alike = replace(cost, num_sequences=1, recompute=policy, num_layer_params=None)
    return _cut(seq_len, schedule.num_chunks, schedule.block, tile, alike)


@lru_cache(maxsize=4096)
def _even(seq_len: int, num_chunks: int, block: int) -> tuple[int, ...]:
    return even_lengths(seq_len, num_chunks, block=block)


@lru_cache(maxsize=4096)
def _cut(
    seq_len: int, num_chunks: int, block: int, tile: int, cost: StageCost | None
) -> tuple[int, ...]:
    """`tiled_lengths`, each cut made once, since a search asks for it again and again.

    Without a cost chunks are even: on one rank nobody waits for a costly one.
    """
    if cost is None:
        return tiled_lengths(
            seq_len, num_chunks, lambda start, length: length, block=block, tile=tile,
            max_unevenness=math.inf,
        )
    return tiled_lengths(seq_len, num_chunks, cost, block=block, tile=tile)


@lru_cache(maxsize=4096)
def named_plan(
    name: str,
    *,
    num_ranks: int,
    num_microbatches: int,
    num_chunks: int,
    stages_per_rank: int | None,
    extra_warmup: int,
    short_warmup: bool,
) -> Plan:
    """`make_plan`, each plan made once."""
    return make_plan(
        name, num_ranks=num_ranks, num_microbatches=num_microbatches, num_chunks=num_chunks,
        stages_per_rank=stages_per_rank, extra_warmup=extra_warmup, short_warmup=short_warmup,
    )


@lru_cache(maxsize=256)
def lowered(plan: Plan, lengths: tuple[int, ...]) -> TickTable:
    """`lower`, each plan lowered once."""
    return lower(plan, lengths)
