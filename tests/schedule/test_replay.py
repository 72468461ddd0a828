"""The symbolic machine: no corrupted cell goes unseen, and what it says is where and why."""

from dataclasses import replace

import numpy as np
import pytest

from seq1f1b_jax.schedule import (
    NO_STAGE,
    Op,
    ReplayError,
    forward_plan,
    lower,
    make_plan,
    parse_grid,
    replay,
)
from seq1f1b_jax.schedule.lowering.table import (
    BACKWARD,
    FORWARD,
    INPUT_BACKWARD,
    NO_ACTION,
    ActionColumns,
    WeightColumns,
)

NAMES = ["seq1f1b", "seq1f1b-lockstep", "seq1f1b-i", "seq-zb-h1"]


def _table(name="seq1f1b", lengths=(5, 3), **sizes):
    defaults = {"num_ranks": 2, "num_microbatches": 3, "num_chunks": len(lengths)}
    return lower(make_plan(name, **(defaults | sizes)), lengths)


def _columns(table):
    weights = {f"weights.{name}": column for name, column in table.weights._asdict().items()}
    return table.actions._asdict() | weights | {"arrival_slot": table.arrival_slot}


def _with(table, columns):
    """The table with other columns, by their names in `_columns`."""
    columns = _columns(table) | columns
    return replace(
        table,
        actions=ActionColumns(*(columns[name] for name in ActionColumns._fields)),
        weights=WeightColumns(*(columns[f"weights.{name}"] for name in WeightColumns._fields)),
        arrival_slot=columns["arrival_slot"],
    )


def _changed(table, name, where, value):
    column = _columns(table)[name].copy()
    column[where] = value
    return _with(table, {name: column})


def _is_received(table):
    """Cells in whose exchange something arrives that somebody waits for."""
    received = np.zeros(table.actions.op.shape, bool)
    for tick in range(table.exchange.late, table.num_ticks):
        for source, destination in table.pairs(tick):
            sent = tick - table.exchange.late
            op, stage = (column[sent, source] for column in table.actions[:2])
            end = table.num_stages - 1 if op == FORWARD else 0
            received[tick, destination] = op != NO_ACTION and stage != end
    return received


def _cells_that_count(table, name):
    """Where a column means something, so that a wrong value must be found."""
    if name.startswith("weights."):
        return table.weights.stage != NO_STAGE
    if name == "arrival_slot":
        return _is_received(table)
    runs, forward = table.actions.op != NO_ACTION, table.actions.op == FORWARD
    pages = np.arange(table.num_chunks) <= table.actions.chunk[..., None]
    first, last = table.actions.stage == 0, table.actions.stage == table.num_stages - 1
    return {
        "cache_pages": runs[..., None] & pages,
        "prefix_slot": runs & ~forward,
        "loss_offset": runs & last,
        "deferred_offset": table.actions.op == INPUT_BACKWARD,
        "inbox_slot": runs & ~np.where(forward, first, last),
    }.get(name, runs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("column", _columns(_table()))
def test_every_changed_cell_is_found(name, column):
    table = _table(name)
    cells = np.argwhere(_cells_that_count(table, column)).tolist()
    assert cells or (name != "seq-zb-h1" and column.startswith(("weights", "deferred")))
    values = np.unique(_columns(table)[column])
    for where in map(tuple, cells):
        right = int(_columns(table)[column][where])
        another = int(values[(np.searchsorted(values, right) + 1) % values.size])
        for wrong in {right + 1, right - 1, another, int(values[-1]) + 1} - {right}:
            with pytest.raises(ReplayError):
                replay(_changed(table, column, where, wrong))


@pytest.mark.parametrize("name", NAMES)
def test_slots_outside_the_inbox_are_found_where_nothing_arrives_too(name):
    table = _table(name)
    for tick, rank in np.ndindex(table.actions.op.shape):
        slot = table.inbox_slots_per_rank[rank]
        with pytest.raises(ReplayError, match=f"tick {tick}, rank {rank}: arrival_slot: .*{slot}"):
            replay(_changed(table, "arrival_slot", (tick, rank), slot))


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        ("seq1f1b", "cache_tokens_per_rank"),
        ("seq1f1b", "prefix_slots_per_rank"),
        ("seq1f1b", "arena_tokens_per_rank"),
        ("seq1f1b", "loss_tokens"),
        ("seq1f1b-i", "inbox_slots_per_rank"),
        ("seq-zb-h1", "deferred_tokens_per_rank"),
    ],
)
def test_a_buffer_that_is_too_small_is_found(name, buffer):
    table = _table(name)
    size = getattr(table, buffer)
    less = size - 1 if isinstance(size, int) else tuple(s - 1 for s in size)
    with pytest.raises(ReplayError, match="expected"):
        replay(replace(table, **{buffer: less}))


def test_an_action_two_ticks_late_misses_its_message():
    table = _table(num_ranks=3)
    late = {}
    for name, column in _columns(table).items():
        late[name] = np.insert(column, [3, 3], column[1], axis=0)  # in tick 1 rank 0 waits
        late[name][3:5, 0] = column[3:5, 0]
        late[name][5:7, 0] = column[1, 0]
    late["op"][3:5, 1:] = NO_ACTION  # rank 0 goes on, the others lose two ticks
    with pytest.raises(ReplayError, match=r"message: expected [FB]\d\.\d@\d, found"):
        replay(_with(table, late))


def _cell(table, op, microbatch, chunk, *, rank=0):
    wanted = {"op": op, "microbatch": microbatch, "chunk": chunk}
    found = [getattr(table.actions, name)[:, rank] == value for name, value in wanted.items()]
    return int(np.flatnonzero(np.all(found, axis=0))[0]), rank


def test_residuals_that_overlap_are_found():
    table = _table()
    other = table.actions.arena_offset[_cell(table, FORWARD, 0, 0)]
    for op in (FORWARD, BACKWARD):
        table = _changed(table, "arena_offset", _cell(table, op, 0, 1), other)
    with pytest.raises(ReplayError, match=r"rank 0, B0\.0@0: values at arena_offset: .*F0\.1@0"):
        replay(table)


def test_residuals_given_away_before_the_weight_gradients_are_found():
    table = _table("seq-zb-h1", lengths=(4, 4))
    tick, rank = np.argwhere((table.weights.stage != NO_STAGE) & (table.actions.op == FORWARD))[0]
    taken = table.weights.arena_offset[tick, rank]  # by the forward of the same tick
    with pytest.raises(ReplayError, match=r"W\d\.\d@\d: values at arena_offset"):
        replay(_changed(table, "arena_offset", (tick, rank), taken))


def test_loss_gradients_that_overlap_are_found():
    table = _table(lengths=(4, 4))
    column = np.zeros_like(table.actions.loss_offset)
    with pytest.raises(ReplayError, match=r"rank 1, B0\.\d@1: values at loss_offset"):
        replay(_with(table, {"loss_offset": column}))


def test_messages_that_overlap_are_found():
    table = _table("seq1f1b-i", lengths=(8,))  # groups of three units wait where the ring wraps
    assert table.num_inbox_slots > 1
    zeros = np.zeros_like(table.actions.inbox_slot)
    with pytest.raises(ReplayError, match="message: expected .*, found"):
        replay(_with(table, {"inbox_slot": zeros, "arrival_slot": zeros}))


def test_caches_that_overlap_are_found():
    table = _table()
    pages = table.actions.cache_pages.copy()
    pages[:, 0] = (0, 5)
    with pytest.raises(ReplayError, match=r"rank 0, B0\.\d@0: values at cache_pages"):
        replay(_with(table, {"cache_pages": pages}))


def test_a_page_that_takes_the_end_of_a_prefix_is_found():
    """One token of the first chunk, which the second one reads."""
    table = _table(num_microbatches=1, num_ranks=1)
    assert table.actions.cache_pages[0].tolist() == [[0, 5]]
    pages = table.actions.cache_pages.copy()
    pages[..., 1] = 4
    with pytest.raises(ReplayError, match=r"F0\.1@0: values at cache_pages: .*'F0\.1@0'"):
        replay(_with(table, {"cache_pages": pages}))


def test_prefix_gradients_of_two_sequences_in_one_slot_are_found():
    grid = "rank 0  F0.0 F0.1 F1.0 F1.1 B0.1 B1.1 B0.0 B1.0"
    table = lower(parse_grid(grid, name="hand"), (5, 3))
    replay(table)
    slots = np.zeros_like(table.actions.prefix_slot)
    with pytest.raises(ReplayError, match=r"B0\.0@0: gradients of keys and values"):
        replay(_with(table, {"prefix_slot": slots}))


def test_a_table_that_ends_early_is_found():
    table = _table()
    cut = {name: column[:-1] for name, column in _columns(table).items()}
    with pytest.raises(ReplayError, match="rank 0 ran the input gradients of"):
        replay(_with(table, cut))


def test_a_lost_weight_gradient_is_found():
    table = _table("seq-zb-h1")
    tick, rank = np.argwhere(table.weights.stage != NO_STAGE)[0]
    with pytest.raises(ReplayError, match=f"rank {rank} ran the weight gradients of"):
        replay(_changed(table, "weights.stage", (tick, rank), NO_STAGE))


def test_a_weight_gradient_added_twice_is_found():
    table = lower(parse_grid("rank 0  F0.0 I0.0 F1.0 I1.0 W0.0 W1.0", name="hand"), [8])
    assert table.weights.microbatch[3, 0] == 0  # W0.0, whose operands are alive in tick 2 as well
    twice = table
    for name, column in _columns(table).items():
        if name.startswith("weights."):
            twice = _changed(twice, name, (2, 0), column[3, 0])
    with pytest.raises(ReplayError, match=r"rank 0 ran the weight gradients of .*\(0, 0, 0\), \(0"):
        replay(twice)


def test_evaluation_that_leaves_a_unit_out_is_found():
    table = lower(forward_plan(num_ranks=2, num_microbatches=2, num_chunks=1), [8])
    with pytest.raises(ReplayError, match="rank 1 ran the forwards of"):
        replay(_changed(table, "op", _cell(table, FORWARD, 1, 0, rank=1), NO_ACTION))


def test_letters_of_the_report_are_those_of_the_action():
    table = _table("seq-zb-h1")
    where = _cell(table, INPUT_BACKWARD, 1, 0, rank=1)
    with pytest.raises(ReplayError, match=rf"tick {where[0]}, rank 1, {Op.I}1\.0@1: loss_offset"):
        replay(_changed(table, "loss_offset", where, -3))
