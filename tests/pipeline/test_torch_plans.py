"""Orders that torch wrote run exactly in the executor: loss and every gradient leaf."""

from pathlib import Path

import jax
import numpy as np
import pytest

from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import Exchange
from seq1f1b_jax.schedule.files.plan_file import read_plan
from tests.pipeline import cases
from tests.pipeline.errors import relative_errors
from tests.pipeline.own_stage import OwnStage

FOLDER = Path(__file__).parents[1] / "schedule" / "torch_plans"
EVERYDAY = {
    "InterleavedZeroBubble_P2_M4_V2.compute": Exchange.LOCKSTEP,
}
LONG = {
    "Interleaved1F1B_P2_M4_V2.comms": Exchange.LOCKSTEP,
    "GPipe_P4_M7_V1.compute": Exchange.PARITY,
    "1F1B_P4_M8_V1": Exchange.PARITY,
    "InterleavedZeroBubble_P4_M4_V1": Exchange.PARITY,
    "LoopedBFS_P2_M3_V2": Exchange.LOCKSTEP,
}


@pytest.mark.parametrize(
    "name", [*EVERYDAY, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]
)
def test_an_order_of_torch_is_exact(x64, name):
    plan = read_plan(FOLDER / f"{name}.csv")
    assert plan.exchange is (EVERYDAY | LONG)[name]
    stage = OwnStage(num_layers=plan.num_stages)
    step = build_step(
        stage, plan, make_mesh(plan.num_ranks), chunk_lengths=(5,),
        options=ExecutorOptions(compute_dtype="float64", fill=float("nan")),
    )  # fmt: skip
    params = cases.parameters(stage, "float64")
    tokens = np.random.default_rng(0).integers(11, size=(plan.num_microbatches, 1, 5))
    tokens = tokens.astype(np.int32)
    loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), tokens, tokens)
    expected_loss, expected = cases.reference(stage, params, (tokens, tokens), "float64")
    assert abs(float(loss) / float(expected_loss) - 1) <= 1e-12
    assert max(relative_errors(step.to_canonical(grads), expected).values()) <= 1e-10
