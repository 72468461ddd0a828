"""The estimate of a step, against the same sum by hand."""

from dataclasses import replace

import pytest

from benchmarks.h100.roofline import (
    ATTENTION_BACKWARD_FLOPS,
    ATTENTION_FLOPS,
    MATMUL_FLOPS,
    step_seconds,
)
from seq1f1b_jax.schedule import StageCost, make_plan

COST = StageCost(
    model_dim=64, num_heads=4, num_kv_heads=4, head_dim=16, mlp_dim=256, gated=False,
    vocab_size=100, layers_per_stage=(3,),
)  # fmt: skip
TOKENS, WEIGHTS, PAIRS = 32, 64 * (4 * 64 + 2 * 256), 32 * 33 / 2


def seconds(recompute, **options):
    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=5, num_chunks=2)
    return step_seconds(plan, replace(COST, recompute=recompute), (16, 16), **options)


def test_one_rank_works_one_action_after_the_other():
    matmul = 2 * TOKENS * WEIGHTS / MATMUL_FLOPS
    scores = PAIRS * 64
    forward, backward = 4 * scores / ATTENTION_FLOPS, 10 * scores / ATTENTION_BACKWARD_FLOPS
    head = 6 * TOKENS * 64 * 100 / MATMUL_FLOPS
    nothing_again = 5 * (3 * (3 * matmul + forward + backward) + head)
    assert seconds("selective") == seconds("none") == pytest.approx(nothing_again)
    assert seconds("matmuls") == pytest.approx(nothing_again + 5 * 3 * matmul)
    assert seconds("full") == pytest.approx(nothing_again + 5 * 3 * (matmul + forward))
    assert seconds("none", num_tensor=2) == pytest.approx(nothing_again / 2)


def test_ranks_wait():
    plan = make_plan("1f1b", num_ranks=3, num_microbatches=3, num_chunks=1)
    cost = replace(COST, layers_per_stage=(1, 1, 1), vocab_size=1)
    alone = step_seconds(
        make_plan("1f1b", num_ranks=1, num_microbatches=3, num_chunks=1),
        replace(cost, layers_per_stage=(1,)), (32,),
    )  # fmt: skip
    # the last rank also has the head, here one row: 0.13 % of its work
    assert step_seconds(plan, cost, (32,)) == pytest.approx(alone * 5 / 3, rel=0.0015)
