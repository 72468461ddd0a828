"""What the benchmarks compare computes the same thing, and their arithmetic is right."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import memory, step
from benchmarks.common import cases
from benchmarks.common.cases import Size
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.memory import predict_memory

SEQ_LEN = 24


@pytest.fixture(scope="module")
def stage():
    return build_stage(
        "gpt", num_layers=2, model_dim=32, num_heads=2, vocab_size=31, max_positions=SEQ_LEN
    )


@pytest.mark.slow
def test_pipelined_and_plain_programs_agree(stage):
    params, batch = stage.init(jax.random.key(0)), cases.random_batch(stage, 2, SEQ_LEN)
    pipelined = cases.pipelined(stage, Size(2, 2, 2, SEQ_LEN))
    loss, grads = jax.jit(pipelined.loss_and_grads)(pipelined.from_canonical(params), *batch)
    plain = jax.jit(cases.plain(stage, attention=cases.differentiable("xla_blockwise")))
    wanted_loss, wanted = plain(params, *batch)
    np.testing.assert_allclose(float(loss), float(wanted_loss), rtol=1e-6)
    errors = cases.leaf_errors(pipelined.to_canonical(grads), wanted)
    assert len(errors) == len(jax.tree.leaves(params))
    assert max(errors.values()) < 1e-5, errors


def test_leaf_errors_sees_one_wrong_number():
    wrong = cases.leaf_errors({"a": jnp.array([4.0, 1.0])}, {"a": jnp.array([4.0, 2.0])})
    assert wrong == {"['a']": 0.25}


def test_last_target_carries_no_loss(stage):
    tokens, targets = cases.random_batch(stage, 2, SEQ_LEN)
    assert (np.asarray(targets[..., -1]) == -1).all()
    np.testing.assert_array_equal(targets[..., :-1], tokens[..., 1:])


def test_ring_is_in_the_proportion_of_the_formula():
    rings = [memory.ring_bytes("gpt", Size(4, 8, c, 64), 32) for c in memory.CHUNKS]
    assert [row["measured"] for row in memory.check_ring(rings)] == ["1", "5/8", "7/16", "11/32"]
    with pytest.raises(SystemExit, match="ring at C=2"):
        memory.check_ring([rings[0], rings[1] + 1, *rings[2:]])


def test_ratios_divide_by_the_same_attention():
    medians = {
        "plain jax.nn": 10.0, "plain xla_dense": 5.0,
        "pipelined xla_dense C=1": 4.0, "pipelined xla_dense C=4": 2.0,
    }
    assert step._ratios(medians, ["xla_dense"]) == {
        "cpu_ratio_c1": 0.8, "cpu_ratio_c4": 0.4,
        "cpu_ratio_c4_over_jax_nn": 0.2,
    }


def predicted(num_chunks: int, *, microbatches: int = 4, recompute: str = "none", **sizes):
    size = Size(4, microbatches, num_chunks, 64, recompute=recompute, **sizes)
    return predict_memory(cases.pipelined(memory.make_stage("llama", size, 32), size).program(1))


def test_prediction_does_not_grow_with_microbatches():
    assert predicted(4, microbatches=16).total == predicted(4, microbatches=8).total


def test_dense_attention_needs_the_whole_score_matrix():
    blockwise, dense = predicted(1), predicted(1, attention="xla_dense")
    assert blockwise.workspace == dense.workspace  # one block is the matrix
    long = Size(4, 4, 1, 2048)
    stage = memory.make_stage("llama", long, 32)
    workspaces = [
        predict_memory(cases.pipelined(stage, size).program(1)).workspace
        for size in (long, Size(4, 4, 1, 2048, attention="xla_dense"))
    ]
    assert workspaces[1] - workspaces[0] > 2 * 4 * 2048**2  # float32 scores and their gradients


def test_prediction_is_close_to_the_compiled_bytes(as_users):
    row = memory._row("gpt", Size(4, 2, 2, 1024), 64)  # two blocks a chunk: see `block_scores`
    assert 0.9 < row["ratio"] < 1.1, row


@pytest.mark.slow
def test_gpu_script_runs_at_toy_sizes(tmp_path):
    from benchmarks.gpu.__main__ import main

    main(["--toy", "--out", str(tmp_path / "gpu.json")])
    values = json.loads((tmp_path / "gpu.json").read_text())
    assert values["exactness_worst_leaf"] < 1e-5
    assert values["failed"] == []
    assert {row["case"] for row in values["steps"]} == {"C=1", "C=2", "plain jax.nn xla"}
    assert max(row["gradient_norm_difference"] for row in values["steps"]) < 0.01  # bfloat16
    assert {row["case"] for row in values["presets"]} == {
        "preset command_buffers", "preset deterministic",
    }
    assert {row["backend"]: "skipped" in row for row in values["numerics"]} == {
        "xla_blockwise": False, "cudnn": True,
    }
    assert values["all_neighbours_over_parity"] > 0
    losses = [row["loss"] for row in values["several_gpus"]]
    assert max(losses) - min(losses) < 1e-3 * max(losses)  # bfloat16, three orders of work
