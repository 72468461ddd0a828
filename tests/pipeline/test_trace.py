"""A traced step computes the same and reports every action once, in an order that can be."""

import jax
import numpy as np
import pytest

from seq1f1b_jax.pipeline.executor.trace import Recorder
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.schedule.dependencies import dependencies
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.errors import relative_errors

CASES = {
    "split backwards, unequal layers": Case(
        P=3, M=2, C=2, schedule="seq-zb-h1", layers="unequal", recompute="none"
    ),
    "ring": Case(P=2, V=2, M=2, C=1, schedule="seq1f1b-i"),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] * name.startswith("split"))
        for name, case in CASES.items()
    ],
)
def test_trace_of_a_step(case):
    step = cases.build(case._replace(x64=False))
    params = step.from_canonical(cases.parameters(step.stage, "float32"))
    batch = cases.batch_of(case)
    recorder = Recorder()
    traced = jax.jit(step.traced(recorder).loss_and_grads)
    jax.block_until_ready(traced(params, *batch))
    recorder.clear()
    loss, grads = jax.block_until_ready(traced(params, *batch))
    jax.effects_barrier()

    expected_loss, expected = jax.jit(step.loss_and_grads)(params, *batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    errors = relative_errors(step.to_canonical(grads), step.to_canonical(expected))
    assert max(errors.values()) < 1e-5

    records = {record.action: record for record in recorder.records}
    planned = [action for row in step.plan.ranks for action in row]
    assert sorted(map(str, records)) == sorted(map(str, planned))
    assert len(recorder.records) == len(planned)
    ends = {action.event: record.end_seconds for action, record in records.items()}
    for row in step.plan.ranks:
        times = [t for action in row for t in records[action][1:]]
        assert times == sorted(times)  # one after the other, in the plan's order
    for action, record in records.items():
        assert all(ends[event] <= record.start_seconds for event in dependencies(action, step.plan))


def test_a_cleared_recorder_starts_its_clock_anew():
    recorder = Recorder()
    recorder.finish(Op.F, 0, 1, 2, 5)
    (record,) = recorder.records
    assert (record.action.stage, record.action.microbatch, record.start_seconds) == (1, 2, 5e-6)
    recorder.clear()
    assert recorder.records == () and 0 <= recorder.now() < 1_000_000
