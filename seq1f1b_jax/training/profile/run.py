"""From the settings of a run to a table of measured costs."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from seq1f1b_jax.cli.devices import count_ranks, num_cores
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.checks import num_virtual_devices, validate
from seq1f1b_jax.pipeline import build_step, make_layout, make_mesh
from seq1f1b_jax.pipeline.stage import Stage
from seq1f1b_jax.plan.order import choose_plan
from seq1f1b_jax.schedule import Op, StageCost, aligned_block, make_plan
from seq1f1b_jax.schedule.memory.layers import is_unrolled
from seq1f1b_jax.schedule.simulation.cost_table import CostTable, Row
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from seq1f1b_jax.training.profile.actions import Profiled
from seq1f1b_jax.training.profile.grid import cuts_of, points_of, usual_lengths
from seq1f1b_jax.training.profile.timing import Work, measure, work_of
from seq1f1b_jax.training.resolve import resolve
from seq1f1b_jax.training.setup import conditions, executor_options, stage_cost


@dataclass(frozen=True, eq=False)
class Subject:
    """What is profiled.

    Attributes:
      config: of the run, resolved.
      stage: the model.
      cost: its counted operations, on the stages of the run.
      mesh: one rank of it.
      profiled: the stage.
      splits: whether the run's schedule has `I` and `W`.
    """

    config: Config
    stage: Stage
    cost: StageCost
    mesh: Mesh
    profiled: Profiled
    splits: bool


def profile(
    config: Config, lengths: Sequence[int] = (), *, seconds: float, split: bool = False,
    stage: Stage | None = None, console: Console | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> CostTable:
    """Time the actions of the run's largest stage, print the table and return it.

    Args:
      config: of the run; its mesh need not be here, only the devices of one rank.
      lengths: of chunks, in tokens; none: half, once and twice those of an even chunk.
      seconds: for timing, beside compilation.
      split: whether halves of backwards are timed where the schedule has none.
      stage: the model where there is one already; None: `config.model` describes it.
      console: where to print; None: standard output.
      clock: see `timing.measure`.

    Raises:
      UserError: settings that do not fit together, or a length that does not fit the sequence.
    """
    console = console or Console(highlight=False)
    subject = make_subject(config, stage)
    work = make_work(subject, lengths, split=split or subject.splits)
    _print(console, "\n".join(introduction(subject, work, seconds)))
    began, rows = time.monotonic(), []
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("", total=sum(one.num_programs + 1 for one in work))

        def advance(what: str) -> None:
            bar.update(task, advance=1, description=what)

        for one in work:
            rows += measure(
                subject.profiled, one, seconds=seconds / len(work), clock=clock, advance=advance
            )
    order = list(Op)
    rows.sort(key=lambda row: (order.index(Op(row.op)), row.length, row.offset))
    table = CostTable(
        subject.profiled.num_layers, subject.config.data.seq_len,
        conditions(
            subject.config, subject.stage, subject.cost, mesh=subject.mesh,
            options=subject.profiled.step.options,
        ),
        tuple(rows),
    )  # fmt: skip
    costs = MeasuredCosts(table, subject.cost)
    _print(console, "\n".join([*lines_of(costs), f"took {time.monotonic() - began:.0f} s"]))
    return table


def make_subject(config: Config, stage: Stage | None = None) -> Subject:
    """Resolve the settings on the devices of one rank.

    Raises:
      UserError: the run's settings do not fit together, or there are too few devices.
    """
    one_rank = replace(config.mesh, pipe=1, data=1, layers_per_stage=None)
    one_stage = replace(config.schedule, plan=None, name="seq1f1b", stages_per_rank=None,
        extra_warmup=0, short_warmup=False)  # fmt: skip
    resolved, stage, _ = resolve(
        replace(config, mesh=one_rank, schedule=one_stage), stage=stage
    )
    if config.mesh.pipe is None:
        platform, present = jax.default_backend(), len(jax.devices())
        pipe = count_ranks(config.mesh, present, platform=platform)
        config = replace(config, mesh=replace(config.mesh, pipe=pipe))
    config = replace(resolved, mesh=config.mesh, schedule=config.schedule)
    validate(config)
    plan, _ = choose_plan(config.schedule, num_ranks=config.mesh.pipe)
    divided = config.mesh.layers_per_stage  # seconds are those of a layer, whatever the division
    layout = make_layout(
        stage.num_layers, plan.num_ranks, vocab_size=stage.vocab_size, tied=stage.tied,
        stages_per_rank=plan.stages_per_rank,
        layers_per_stage=None if divided == "balanced" else divided,
    )
    mesh = make_mesh(1, num_tensor=config.mesh.tensor)
    device = mesh.devices.flat[0]
    options, _ = executor_options(config, device)
    step = build_step(
        stage, make_plan("seq1f1b", num_ranks=1, num_microbatches=1, num_chunks=1), mesh,
        chunk_lengths=(config.data.seq_len,), options=options,
    )
    cost = stage_cost(config, stage, layout.layers_per_stage)
    unrolled = is_unrolled(
        options.unroll, max_layers=layout.max_layers, num_chunks=plan.num_chunks,
        stages_per_rank=plan.stages_per_rank, platform=device.platform,
    )
    profiled = Profiled(step, layout.max_layers, cost.num_sequences, unrolled)
    splits = any(action.op is Op.W for row in plan.ranks for action in row)
    return Subject(config, stage, cost, mesh, profiled, splits)


def make_work(subject: Subject, lengths: Sequence[int], *, split: bool) -> tuple[Work, ...]:
    """The cuts to measure.

    Raises:
      UserError: a chunk longer than the sequence, or one that devices cannot share.
    """
    schedule, seq_len = subject.config.schedule, subject.config.data.seq_len
    block = aligned_block(seq_len, schedule.num_chunks, block=schedule.block)
    lengths = lengths or usual_lengths(seq_len, schedule.num_chunks, block=schedule.block)
    if max(lengths) > seq_len:
        raise UserError(
            f"--lengths {max(lengths)} is longer than data.seq_len={seq_len}; use less"
        )
    return work_of(cuts_of(seq_len, points_of(seq_len, lengths, block=block), block=block),
        split=split)  # fmt: skip


def introduction(subject: Subject, work: Sequence[Work], seconds: float) -> Iterator[str]:
    """What will be measured, on what, and how long that takes."""
    config, programs = subject.config, sum(one.num_programs for one in work)
    ops = ", ".join(dict.fromkeys(op for one in work for op in one.ops))
    points = {point for one in work for point in one.cut.points.values()}
    device = subject.mesh.devices.flat[0]
    yield (
        f"profiling {ops} of {subject.profiled.num_layers} layers on {len(points)} chunks of a "
        f"sequence of {config.data.seq_len} tokens, {subject.cost.num_sequences} in a microbatch"
    )
    yield (
        f"{programs} programs to compile, each some seconds, then {seconds:g} s of timing "
        "(--seconds)"
    )
    devices = config.mesh.data * (config.mesh.pipe or 1) * config.mesh.tensor
    if device.platform == "cpu" and min(devices, num_virtual_devices(config.mesh)) > num_cores():
        yield (
            f"note: {devices} virtual devices share {num_cores()} cores in the run, and here one "
            "has them alone: a step takes longer than the seconds say, the cut follows their ratios"
        )


def lines_of(costs: MeasuredCosts) -> Iterator[str]:
    """The table for people: milliseconds, and how well the fit predicts a row that it lacks."""
    yield (
        "op  length  offset  layers ms  embedding ms  head ms  spread  fitted  without it"
    )
    for op in costs.table.ops:
        rows = costs.table.of(op)
        for row, error in zip(rows, costs.errors.get(op, [None] * len(rows)), strict=True):
            yield _line(costs, row, error)
    yield (
        f"a row is predicted by the fit of the others within {costs.median_error:.1%} (median), "
        f"{costs.worst_error:.1%} (largest)"
    )


def _line(costs: MeasuredCosts, row: Row, error: float | None) -> str:
    chunk = costs.terms(row.offset, row.length)
    layers = costs.table.num_layers * costs.parts[Op(row.op)].layers.seconds(chunk)
    without = "" if error is None else f"{error:+10.1%}"
    return (
        f"{row.op:2}{row.length:8}{row.offset:8}{1e3 * row.layers:11.3f}{1e3 * row.embedding:14.3f}"
        f"{1e3 * row.head:9.3f}{row.spread:8.1%}{layers / row.layers - 1:+8.1%}{without}"
    )


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
