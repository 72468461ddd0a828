"""The symbolic machine: correct tables pass, and no corrupted cell goes unseen."""

from dataclasses import replace

import numpy as np
import pytest

from seq1f1b_jax.schedule import BACKWARD, FORWARD, IDLE, ReplayError, lower, make_plan, replay

ARRAYS = ("op", "microbatch", "chunk", "cache_slot", "arena_offset")


def _table(name="seq1f1b", **sizes):
    defaults = {"num_stages": 3, "num_microbatches": 3, "num_chunks": 2}
    plan = make_plan(name, **(defaults | sizes))
    return lower(plan, (5, 3)[: plan.num_chunks])


def _changed(table, name, where, value):
    array = getattr(table, name).copy()
    array[where] = value
    return replace(table, **{name: array})


def test_every_generated_plan_replays_with_unequal_chunks(plans):
    for plan in plans:
        replay(lower(plan, tuple(9 - chunk for chunk in range(plan.num_chunks))))


@pytest.mark.parametrize("name", ["gpipe", "seq1f1b"])
@pytest.mark.parametrize("array", ARRAYS)
def test_every_changed_cell_is_found(name, array):
    table = _table(name)
    values = np.unique(getattr(table, array)).tolist()
    for tick, rank in np.argwhere(table.op != IDLE).tolist():
        right = int(getattr(table, array)[tick, rank])
        for wrong in {*values, right + 1, -1} - {right}:
            with pytest.raises(ReplayError):
                replay(_changed(table, array, (tick, rank), wrong))


def test_an_action_two_ticks_late_misses_its_message():
    table = _table()
    late = {name: np.insert(getattr(table, name), [3, 3], 0, axis=0) for name in ARRAYS}
    for array in late.values():
        array[3:5, 0] = array[5:7, 0]  # rank 0 goes on, the others lose two ticks
    with pytest.raises(ReplayError, match="message: expected"):
        replay(replace(table, **late))


def _cells(table, op, microbatch, chunk):
    ops = table.op[:, 0] != IDLE if op is None else table.op[:, 0] == op
    unit = (table.microbatch[:, 0] == microbatch) & (table.chunk[:, 0] == chunk)
    return np.flatnonzero(ops & unit), 0


def test_residuals_that_overlap_are_found():
    table = _table()
    other = table.arena_offset[_cells(table, FORWARD, 0, 0)]
    overlapping = _changed(table, "arena_offset", _cells(table, None, 0, 1), other)
    with pytest.raises(ReplayError, match=r"tick \d+, rank 0, B0\.0: residuals: expected \[1\]"):
        replay(overlapping)


def test_caches_that_overlap_are_found():
    table = _table()
    slots = table.cache_slot.copy()
    slots[:, 0] = 0
    with pytest.raises(ReplayError, match=r"rank 0, B0\.1: keys and values"):
        replay(replace(table, cache_slot=slots))


def test_prefix_gradients_of_two_microbatches_at_once_are_found():
    table = _table("gpipe", num_stages=1, num_microbatches=2)
    backwards = np.flatnonzero(table.op[:, 0] == BACKWARD)  # B0.1 B0.0 B1.1 B1.0
    order = backwards[[0, 2, 1, 3]]
    interleaved = {}
    for name in ARRAYS:
        array = getattr(table, name).copy()
        array[backwards] = array[order]
        interleaved[name] = array
    with pytest.raises(ReplayError, match=r"B0\.0: key/value gradients"):
        replay(replace(table, **interleaved))


def test_a_table_that_ends_early_is_found():
    table = _table()
    cut = {name: getattr(table, name)[:-2] for name in ARRAYS}
    with pytest.raises(ReplayError, match="rank 0 ran the backwards of"):
        replay(replace(table, **cut))
