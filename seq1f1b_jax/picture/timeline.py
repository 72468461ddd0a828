"""What every picture shows: which rank did what from when to when, and what it held."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import NamedTuple

from seq1f1b_jax.schedule import Action

UNITS = {"": "units of cost", "ms": "ms"}
"""Units of time and how an axis calls them."""

MEMORY_UNITS = ("units", "microbatches", "GB")

Curve = tuple[tuple[float, float], ...]
"""Steps (time, value): the value holds from that time on, and is 0 before the first."""


class Span(NamedTuple):
    """One action on the clock.

    Attributes:
      rank: that ran it.
      action: what it did.
      start: time in the timeline's unit, counted from the start of the step.
      end: likewise.
    """

    rank: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """One step on the clock, predicted or measured.

    Attributes:
      title: names it in the picture.
      num_ranks: ranks of the pipeline.
      spans: in any order; those of one rank do not overlap.
      unit: of time: `""` for units of cost, or `"ms"`.
      memory: per rank the steps (time, value) of what it holds, ascending in time; `()` for none.
      memory_unit: `"units"`, `"microbatches"` or `"GB"` (1e9 bytes).
      notes: short facts for the caption, such as `"bubble 17.9 %"`.

    Raises:
      ValueError: a span is outside the ranks or the step or overlaps another one, a curve is not a
        curve, or a unit is unknown.

    Example:
      >>> from seq1f1b_jax.picture import Span, Timeline
      >>> from seq1f1b_jax.schedule import Action, Op
      >>> span = Span(0, Action(Op.F, stage=0, microbatch=0, chunk=0), 0.0, 1.5)
      >>> Timeline("one forward", num_ranks=1, spans=(span,), unit="ms").end
      1.5
    """

    title: str
    num_ranks: int
    spans: tuple[Span, ...]
    unit: str = ""
    memory: tuple[Curve, ...] = ()
    memory_unit: str = "units"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _check_words(self)
        _check_units(self)
        for span in self.spans:
            _check_span(self, span)
        if not self.spans or self.end <= 0:
            raise ValueError(
                f"timeline {self.title!r} has {len(self.spans)} spans and lasts"
                f" {self.end if self.spans else 0}; give at least one that ends after 0"
            )
        _check_overlaps(self)
        _check_memory(self)

    @cached_property
    def end(self) -> float:
        """Time at which the last action ends."""
        return max(span.end for span in self.spans)

    @cached_property
    def rows(self) -> tuple[tuple[Span, ...], ...]:
        """Spans of each rank in order of time."""
        rows: list[list[Span]] = [[] for _ in range(self.num_ranks)]
        for span in sorted(self.spans, key=lambda span: (span.start, span.end)):
            rows[span.rank].append(span)
        return tuple(map(tuple, rows))

    @cached_property
    def layer_groups(self) -> dict[tuple[int, int], int]:
        """Which of its rank's stages each (rank, stage) is, nearest the input first."""
        groups = {}
        for rank, row in enumerate(self.rows):
            for index, stage in enumerate(sorted({span.action.stage for span in row})):
                groups[rank, stage] = index
        return groups

    @property
    def stages_per_rank(self) -> int:
        """Stages of the rank that has most."""
        return 1 + max(self.layer_groups.values())

    @cached_property
    def num_chunks(self) -> int:
        """Chunks of a microbatch."""
        return 1 + max(span.action.chunk for span in self.spans)

    @cached_property
    def peaks(self) -> tuple[float, ...]:
        """The most that each rank holds; `()` without memory."""
        return tuple(max((value for _, value in curve), default=0) for curve in self.memory)


def check_together(timelines: Sequence[Timeline]) -> tuple[Timeline, ...]:
    """Check that timelines fit on one time axis.

    Args:
      timelines: of one picture, top to bottom.

    Returns:
      The same as a tuple.

    Raises:
      ValueError: there are none, or their units of time differ.
    """
    if not timelines:
        raise ValueError("a picture of 0 timelines shows nothing; give at least one")
    first = timelines[0]
    for other in timelines[1:]:
        if other.unit != first.unit:
            raise ValueError(
                f"timeline {first.title!r} is in {UNITS[first.unit]} and {other.title!r} in"
                f" {UNITS[other.unit]}, but one picture has one time axis; simulate with measured"
                " costs in ms, or draw two pictures"
            )
    return tuple(timelines)


def _check_words(timeline: Timeline) -> None:
    for words in (timeline.title, *timeline.notes):
        if not words.isprintable():
            raise ValueError(
                f"title or note {words!r} has characters that no picture can show; write one line"
                " without control characters"
            )


def _check_units(timeline: Timeline) -> None:
    if timeline.num_ranks < 1:
        raise ValueError(f"num_ranks={timeline.num_ranks} must be at least 1")
    if timeline.unit not in UNITS:
        raise ValueError(
            f"unit={timeline.unit!r} is not known; convert the times to 'ms', or give '' for units"
            " of cost"
        )
    if timeline.memory_unit not in MEMORY_UNITS:
        raise ValueError(
            f"memory_unit={timeline.memory_unit!r} is not known; use one of"
            f" {', '.join(MEMORY_UNITS)}"
        )


def _check_span(timeline: Timeline, span: Span) -> None:
    if not 0 <= span.rank < timeline.num_ranks:
        raise ValueError(
            f"{span.action.text(span.rank)} runs on rank {span.rank}, outside"
            f" num_ranks={timeline.num_ranks}"
        )
    if not (isfinite(span.start) and isfinite(span.end) and 0 <= span.start <= span.end):
        raise ValueError(
            f"{span.action.text(span.rank)} on rank {span.rank} runs from {span.start} to"
            f" {span.end}; both must be finite times from the start of the step on, in this order"
        )


def _check_overlaps(timeline: Timeline) -> None:
    rounding = 1e-9 * timeline.end  # ends and starts that were computed on two ways
    for rank, row in enumerate(timeline.rows):
        for first, second in zip(row, row[1:], strict=False):
            if second.start < first.end - rounding:
                raise ValueError(
                    f"on rank {rank} {second.action.text(rank)} starts at {second.start}, before"
                    f" {first.action.text(rank)} ends at {first.end}; a rank runs one action at a"
                    " time, so give every rank the times of one clock"
                )


def _check_memory(timeline: Timeline) -> None:
    if timeline.memory and len(timeline.memory) != timeline.num_ranks:
        raise ValueError(
            f"memory has {len(timeline.memory)} curves for num_ranks={timeline.num_ranks}; give one"
            " per rank, or () for none"
        )
    for rank, curve in enumerate(timeline.memory):
        if any(later <= earlier for (earlier, _), (later, _) in _neighbours(curve)):
            raise ValueError(f"the memory curve of rank {rank} must ascend in time, step by step")
        for time, value in curve:
            if not (isfinite(time) and isfinite(value) and value >= 0):
                raise ValueError(
                    f"the memory of rank {rank} is {value} at time {time}; both must be finite, and"
                    " the value at least 0"
                )


def _neighbours(curve: Curve) -> Iterable[tuple[tuple[float, float], tuple[float, float]]]:
    return zip(curve, curve[1:], strict=False)
