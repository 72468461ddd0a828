"""Rows of the published sizes, on a tiny model and virtual CPU devices."""

import json

import jax
import pytest

from benchmarks import published_sizes
from benchmarks.common.placement import Location, count_collectives
from benchmarks.common.shapes import MICROBATCHES, SHAPES, Shape
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.pipeline.memory import nbytes

TINY = Shape("tiny", 32, 2, 1, 1, recompute="selective")


def test_rows_have_the_sizes_of_the_paper():
    thirty = SHAPES["30b_65536_seq1f1b_selective"]
    assert thirty.axes == {"pipe": 8, "tensor": 8} and thirty.num_chunks == 4
    assert SHAPES["30b_65536_1f1b_none"].num_chunks == 1
    assert SHAPES["2.7b_32768_1f1b_none"].axes == {"pipe": 8}
    assert SHAPES["7b_131072_seq1f1b_none"].axes == {"pipe": 4, "tensor": 8}


@pytest.mark.slow
def test_bytes_of_a_compiled_step(as_users):
    step = published_sizes.build(TINY, mesh=make_mesh(2))
    state = published_sizes.abstract_state(step)
    compiled, seconds = published_sizes.compile_train_step(step, state)
    memory = compiled.memory_analysis()
    held, _ = published_sizes.held_bytes(memory)
    parts = published_sizes.local_bytes((state.params, state.optimizer))
    batch = 2 * MICROBATCHES * TINY.seq_len * 4
    assert memory.argument_size_in_bytes == parts + batch + 4  # and the number of the step
    assert memory.alias_size_in_bytes > 0.9 * parts  # the state is donated
    assert held > parts + memory.temp_size_in_bytes
    assert seconds > 0
    found = count_collectives(compiled.as_text(), TINY.axes)
    inner = {location for location in found if location.where != "step"}
    assert inner == {Location("collective-permute", "pipe", "tick")}


def test_local_bytes_counts_one_device_s_part():
    step = published_sizes.build(TINY, mesh=make_mesh(2))
    params = step.abstract_params()
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    staged = sum(leaf.size * 4 for leaf in jax.tree.leaves(params.layers))
    assert whole - staged < published_sizes.local_bytes(params) < whole


def test_rows_are_added_to_those_of_the_file(monkeypatch, tmp_path, capsys):
    out = tmp_path / "sizes.json"
    collectives = [{"where": "tick", "kind": "x", "axes": "pipe", "count": 2}]

    def measure(shape, *, cpu):
        row = {"held": 1.5, "host": 0, "exposed copies": 0, "collectives": collectives}
        return row | {"C": shape.num_chunks}

    monkeypatch.setattr(published_sizes, "measure", measure)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert published_sizes.main(["--only", "2.7b_32768_1f1b_none", "--out", str(out)]) == 0
    words = ["--only", "30b_65536_seq1f1b_selective", "--chunks", "8", "--out", str(out)]
    assert published_sizes.main(words) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values == json.loads(out.read_text())
    assert values["2.7b_32768_1f1b_none_gb"] == 1.5
    assert values["rows"]["30b_65536_seq1f1b_selective_8"]["C"] == 8


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit):
        published_sizes.main(["--only", "31b"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("recompute", ["none", "selective", "matmuls", "full"])
def test_what_a_device_keeps_is_its_part_of_a_layer(recompute):
    """Between two matmuls that are cut, too: tokens of other devices are gathered again."""
    one, four = (
        Shape("small", 1024, 2, tensor, 2, recompute=recompute) for tensor in (1, 4)
    )
    rings = [
        published_sizes.build(shape, mesh=make_mesh(2, num_tensor=shape.tensor)).program(1)
        for shape in (one, four)
    ]
    whole, part = (nbytes(p.ring_shapes()) for p in rings)
    assert 3.9 < whole / part < 4.1  # statistics of norms are rounded up
