"""From a simulation to a timeline, with what each rank holds meanwhile."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from seq1f1b_jax.picture.timeline import Curve, Span, Timeline
from seq1f1b_jax.schedule import Action, Op, Simulation


def timeline_of(
    simulation: Simulation,
    *,
    title: str,
    unit: str = "",
    unit_bytes: ArrayLike | None = None,
    memory_unit: str | None = None,
    notes: Sequence[str] | None = None,
) -> Timeline:
    """Turn a simulation into a timeline.

    A unit is held from the start of its `F` to the end of its `B`, or of its `W` where the backward
    is split. A forward-only plan holds nothing and gets no memory curve.

    Args:
      simulation: of any machine.
      title: of the timeline.
      unit: of the simulation's times, `""` for units of cost or `"ms"`.
      unit_bytes: bytes that one unit keeps, an array that broadcasts to
        `[num_stages, num_chunks]`. Needed for `memory_unit="GB"`.
      memory_unit: `"units"` counts units; `"microbatches"` counts each as its share of the rank's
        layers and of the sequence, `1/(V*C)`, so that plans of different C compare; `"GB"` adds up
        `unit_bytes`. None: GB where bytes are given, else units.
      notes: of the caption; None: machine, step time and bubble.

    Returns:
      The timeline, in float64.

    Raises:
      ValueError: GB without bytes or bytes without GB, or bytes of another shape.

    Example:
      >>> from seq1f1b_jax.picture import timeline_of
      >>> from seq1f1b_jax.schedule import Costs, make_plan, simulate
      >>> plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=4, num_chunks=2)
      >>> timeline_of(simulate(plan, Costs(forward=1, backward=2)), title=plan.name).peaks
      (5.0, 4.0, 3.0, 2.0)
    """
    if memory_unit is None:
        memory_unit = "units" if unit_bytes is None else "GB"
    if (memory_unit == "GB") != (unit_bytes is not None):
        given = "without" if unit_bytes is None else "with"
        raise ValueError(
            f"memory_unit={memory_unit!r} {given} unit_bytes; give both 'GB' and unit_bytes, or"
            " neither"
        )
    spans = tuple(
        Span(action.stage % simulation.num_ranks, action, float(start), float(end))
        for action, start in simulation.starts.items()
        for end in (simulation.ends[action],)
    )
    return Timeline(
        title,
        simulation.num_ranks,
        spans,
        unit,
        _memory(simulation, unit_bytes, memory_unit),
        memory_unit,
        _notes(simulation, unit) if notes is None else tuple(notes),
    )


def number_text(value: float) -> str:
    """Write a number with at most four significant digits and no exponent below a million."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def _notes(simulation: Simulation, unit: str) -> tuple[str, ...]:
    return (
        f"{simulation.machine} machine",
        f"step {number_text(float(simulation.makespan))} {unit}".rstrip(),
        f"bubble {100 * simulation.bubble_fraction:.1f} %",
    )


def _memory(
    simulation: Simulation, unit_bytes: ArrayLike | None, memory_unit: str
) -> tuple[Curve, ...]:
    if all(action.op is Op.F for action in simulation.starts):
        return ()
    num_stages = 1 + max(action.stage for action in simulation.starts)
    shape = num_stages, simulation.num_chunks
    sizes = np.ones(shape, np.int64) if unit_bytes is None else _whole_bytes(unit_bytes, shape)
    stages_per_rank = num_stages // simulation.num_ranks
    per_value = {"microbatches": stages_per_rank * simulation.num_chunks, "GB": 10**9}
    return tuple(
        _curve(changes, per_value.get(memory_unit, 1)) for changes in _changes(simulation, sizes)
    )


def _whole_bytes(unit_bytes: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    try:
        return np.broadcast_to(np.rint(np.asarray(unit_bytes)).astype(np.int64), shape)
    except ValueError as error:
        raise ValueError(
            f"unit_bytes of shape {np.asarray(unit_bytes).shape} does not fit"
            f" num_stages={shape[0]} and num_chunks={shape[1]}; give an array of these two"
            " sizes"
        ) from error


def _changes(simulation: Simulation, sizes: np.ndarray) -> list[dict]:
    """Per rank what each moment adds, as time -> size; whole numbers, so nothing is rounded."""
    changes: list[dict] = [defaultdict(int) for _ in range(simulation.num_ranks)]
    for action, start in simulation.starts.items():
        size = int(sizes[action.stage, action.chunk])
        rank = action.stage % simulation.num_ranks
        if action.op is Op.F:
            changes[rank][float(start)] += size
        elif _releases(action):
            changes[rank][float(simulation.ends[action])] -= size
    return changes


def _releases(action: Action) -> bool:
    """Whether a unit's values are needed no longer once this is over: an `I` leaves its `W`'s."""
    return action.op in (Op.B, Op.W)


def _curve(changes: dict, per_value: int) -> Curve:
    """Running sum, one step per moment at which it changes."""
    curve, held = [], 0
    for time in sorted(changes):
        if changes[time]:
            held += changes[time]
            curve.append((time, held / per_value))
    return tuple(curve)
