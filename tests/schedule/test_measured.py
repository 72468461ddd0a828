"""Measured costs: the fit, the file, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule import Op, balanced_lengths, make_plan, simulate
from seq1f1b_jax.schedule.simulation.cost_table import CostTable
from seq1f1b_jax.schedule.simulation.fit import Terms, fit, held_out_errors
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from tests.schedule.made_costs import EMBEDDING, FACTORS, HEAD, LAYER, made_table, sizes_of

SEQ_LEN, LENGTHS = 4096, (512, 1024, 2048)


def test_seconds_between_the_points_are_those_of_the_formula():
    cost = MeasuredCosts(made_table(SEQ_LEN, LENGTHS), sizes_of(3, 2, 4))
    start, length = 1280, 768
    pairs = cost.sizes.pairs(start + length) - cost.sizes.pairs(start)
    layer = LAYER.seconds(Terms(1, length, pairs, start + length))
    wanted = {  # by operation: one layer, and what the first and the last stage add
        Op.F: [3 * layer + EMBEDDING * length, 2 * layer, 4 * layer + HEAD * length],
        Op.B: [FACTORS["B"] * count * layer for count in (3, 2, 4)],
    }
    for op, seconds in wanted.items():
        found = [cost.seconds(op, stage, start=start, length=length) for stage in range(3)]
        np.testing.assert_allclose(found, seconds, rtol=1e-9)
    costs = cost.costs((1280, 768, 2048))
    np.testing.assert_allclose(np.asarray(costs.forward)[:, 1], wanted[Op.F], rtol=1e-9)
    np.testing.assert_allclose(np.asarray(costs.backward)[:, 1], wanted[Op.B], rtol=1e-9)
    paces = [f + b for f, b in zip(*wanted.values(), strict=True)]
    assert cost(start, length) == pytest.approx(max(paces), rel=1e-9)
    assert cost.worst_error < 1e-6  # nothing is noise here


@given(st.lists(st.floats(0.5, 2.0), min_size=9, max_size=9), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_no_fit_falls_when_a_chunk_grows_and_none_of_its_terms_could_be_better(noise, number):
    """Against nudges of each term: the least squares without negative terms."""
    rows = made_table(SEQ_LEN, LENGTHS, ops="F").rows
    sizes = sizes_of(2)
    chunks = [
        Terms(1, r.length, sizes.pairs(r.offset + r.length) - sizes.pairs(r.offset),
              r.offset + r.length)
        for r in rows
    ]  # fmt: skip
    seconds = [row.layers * factor for row, factor in zip(rows, noise, strict=True)]
    found = fit(chunks, seconds)
    assert min(found) >= 0

    def error(terms):
        return sum((terms.seconds(c) / s - 1) ** 2 for c, s in zip(chunks, seconds, strict=True))

    scale = seconds[0] / chunks[0][number]
    for nudge in (-1e-4, 1e-4):
        nudged = list(found)
        nudged[number] = max(0.0, nudged[number] + nudge * scale)
        assert error(Terms(*nudged)) >= error(found) * (1 - 1e-9)


def test_errors_are_those_of_rows_that_the_fit_has_not_seen():
    chunks = [Terms(1, n, n * n, n) for n in (1, 2, 3, 4)]
    errors = held_out_errors(chunks, [1.0, 2.0, 6.0, 4.0])
    assert errors[2] == pytest.approx(-0.5)  # the others lie on a line
    assert min(map(abs, errors)) > 0.01


def test_fewer_points_than_terms_are_enough_for_chunks_like_them():
    cost = MeasuredCosts(made_table(1024, (1024,)), sizes_of(2, 2))
    row = cost.table.rows[0]
    assert cost.seconds(Op.F, 0, start=0, length=1024) == pytest.approx(
        row.layers + row.embedding
    )


def test_documents_count_in_the_prediction_and_not_in_the_fit():
    whole = MeasuredCosts(made_table(SEQ_LEN, LENGTHS), sizes_of(2, 2))
    packed = replace(whole, sizes=replace(whole.sizes, visible_keys=np.full(SEQ_LEN, 10.0)))
    assert packed.parts == whole.parts
    assert packed(2048, 1024) < whole(2048, 1024)
    assert packed(2048, 1024) - packed(1024, 1024) == pytest.approx(
        2 * LAYER.keys * 1024 * (1 + FACTORS["B"]), rel=1e-6
    )


def test_halves_are_simulated_as_measured():
    plan = make_plan("seq-zb-h1", num_ranks=2, num_microbatches=2, num_chunks=2)
    cost = MeasuredCosts(made_table(SEQ_LEN, LENGTHS, ops="FIW"), sizes_of(2, 2))
    costs = cost.costs((2048, 2048))
    assert np.allclose(costs.weights, FACTORS["W"] / FACTORS["I"] * np.asarray(costs.inputs))
    busy = sum(simulate(plan, costs).busy)
    all_of = np.asarray(costs.forward) + costs.inputs + costs.weights
    assert busy == pytest.approx(2 * all_of.sum())


def test_the_balanced_cut_takes_measured_costs():
    cost = MeasuredCosts(made_table(SEQ_LEN, LENGTHS), sizes_of(2, 2))
    lengths = balanced_lengths(SEQ_LEN, 4, cost, block=128)
    assert lengths[0] > lengths[-1]
    seconds = [cost(sum(lengths[:i]), n) for i, n in enumerate(lengths)]
    even = [cost(1024 * i, 1024) for i in range(4)]
    assert max(seconds) < max(even)


def test_a_file_is_read_as_it_was_written(tmp_path):
    table = made_table(SEQ_LEN, LENGTHS, ops="FBIW", recompute="none", window=None, heads=4)
    path = tmp_path / "costs.json"
    table.save(path)
    found = CostTable.load(path)
    assert found == table and found.fingerprint == table.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["costs.json"]
    other = replace(table, conditions={**table.conditions, "heads": 8})
    assert other.fingerprint != table.fingerprint


BAD = {
    "no JSON": ("{", "line 1 is no JSON"),
    "other JSON": ("[1, 2]", "TypeError"),
    "another format": ('{"format": "x"}', "KeyError 'format'"),
    "newer": (lambda tree: tree | {"version": 2}, "version 2 .* reads version 1"),
    "a field too many": (lambda tree: tree | {"rows": [{"x": 1}]}, "TypeError"),
    "no rows": (lambda tree: tree | {"rows": []}, "0 rows"),
    "no seconds": (
        lambda tree: tree | {"rows": [tree["rows"][0] | {"layers": float("nan")}]}, "nan",
    ),
    "beyond the end": (
        lambda tree: tree | {"rows": [tree["rows"][0] | {"offset": 9999}]}, "offset=9999",
    ),
    "no such action": (lambda tree: tree | {"rows": [tree["rows"][0] | {"op": "X"}]}, "op='X'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_table_is_refused_with_the_cure(name):
    text, message = BAD[name]
    if not isinstance(text, str):
        text = json.dumps(text(json.loads(made_table(SEQ_LEN, LENGTHS).text())))
    with pytest.raises(ValueError, match=message) as caught:
        CostTable.from_text(text, "costs.json")
    assert "python -m seq1f1b_jax.plan profile" in str(caught.value)


def test_another_run_is_refused_by_what_differs():
    table = made_table(SEQ_LEN, LENGTHS, recompute="none", tensor=2, jax="0.10.2", head_dim=64)
    same = dict(table.conditions)
    assert table.check(same, name="c.json") == ()
    noted = table.check(same | {"jax": "0.12.0"}, name="c.json")
    assert noted == ("c.json was measured with jax 0.10.2, this is 0.12.0",)
    with pytest.raises(ValueError) as caught:
        table.check(same | {"recompute": "full", "head_dim": 32, "new": 1}, name="c.json")
    assert str(caught.value) == (
        "c.json was measured with recompute=none, head_dim=64, new=None, and this run has "
        "recompute=full, head_dim=32, new=1; profile it again: python -m seq1f1b_jax.plan profile "
        "--to c.json and the settings of the run"
    )


def test_half_a_table_is_refused():
    with pytest.raises(ValueError, match="the table has F, I, and a step needs F and B"):
        MeasuredCosts(made_table(SEQ_LEN, LENGTHS, ops="FI"), sizes_of(2, 2))


@pytest.mark.parametrize(
    "lengths, message",
    [
        ((255, 3841), "chunk of 255 tokens is far .* 256 to 4096 .*--lengths 255"),
        ((4097, 512), "chunk of 4097 tokens is far"),
        ((2048,) * 4 + (512,), "8704 tokens is far longer than the 4096 .*seq_len 8704"),
    ],
    ids=["short chunk", "long chunk", "long sequence"],
)
def test_what_is_far_from_the_measurements_is_refused(lengths, message):
    cost = MeasuredCosts(made_table(SEQ_LEN, LENGTHS), sizes_of(2, 2))
    cost.costs((256, 3840))
    with pytest.raises(ValueError, match=message):
        cost.costs(lengths)
