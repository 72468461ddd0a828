"""The peak of a process over its share, and that making a model stays within it."""

from dataclasses import asdict

import chex
import jax
import pytest

from benchmarks import init_memory
from benchmarks.common.processes import run_processes
from benchmarks.init_memory import CASES, MESHES, Sizes
from seq1f1b_jax.pipeline.params.fresh import PIECE_BYTES
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, load_state
from seq1f1b_jax.training.checkpoint.restore import abstract_state, place_state

SMALL = Sizes(num_layers=2, vocab_size=8192)


def test_the_worst_of_all_meshes_counts():
    rows = [{"case": case, "ratio": 1 + 0.1 * at} for at, case in enumerate([*CASES, "init"])]
    found = init_memory.summary(rows)
    assert found["peak_over_share"]["init"] == found["worst"] == 1.4
    assert list(found["peak_over_share"]) == list(CASES)


def test_a_share_is_what_one_device_holds():
    setup = init_memory.setup_of({"num_layers": 2, "model_dim": 64, "mlp_dim": 128}, MESHES[0])
    params = setup.pipeline.abstract_params()
    everything = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    last = 4 * 64  # the final norm is on both
    assert sum(init_memory.shard_bytes(params)) == (everything + last) / 2


@pytest.mark.slow
def test_one_process_reads_what_two_of_one_device_saved(tmp_path):
    narrow = asdict(init_memory.NARROW)
    work = {"sizes": narrow, "folder": str(tmp_path), "mesh": "data=2"}
    run_processes("benchmarks.init_memory:write_state", work, num_processes=2)
    setup = init_memory.setup_of(narrow, "pipe=2")
    checkpoint = find_checkpoint(tmp_path / "data=2")
    state = place_state(checkpoint, setup)
    saved = load_state(checkpoint, abstract_state(setup))
    chex.assert_trees_all_equal(setup.pipeline.to_canonical(state), saved)
    made = jax.jit(setup.stage.init)(jax.random.key(0))  # other machine code here: other last bits
    chex.assert_trees_all_close(saved.params, jax.device_get(made), rtol=1e-6)


@pytest.mark.slow
def test_a_process_makes_its_own_half():
    """Of 170 MB; a process that made them all would have 255 MB at least."""
    rows = init_memory.measure(SMALL, cases=("init",))
    half = next(row for row in rows if row["mesh"] == "pipe=2")
    assert half["share_mb"] < 86
    assert half["peak_mb"] <= half["share_mb"] + 4 * PIECE_BYTES / 1e6
