"""What a plan writes down is what the executor finds by tracing, for every model and mesh."""

from dataclasses import fields

import pytest

from seq1f1b_jax.pipeline.memory import predict_memory, sizes_of
from seq1f1b_jax.schedule.memory.terms import room_of, step_bytes
from seq1f1b_jax.training.faults.needs import _state_bytes, program_of
from tests.plan.cases import CASES, draft_of, setup_of


@pytest.mark.parametrize("name", CASES)
def test_sizes_and_bytes_are_those_of_the_program(name):
    config = CASES[name]
    draft, setup = draft_of(config), setup_of(config)
    program = program_of(setup)
    assert draft.lengths == program.lengths
    found, expected = draft.sizes, sizes_of(program)
    for field in fields(found):
        if field.name in ("residuals", "deferred", "layer_values"):
            ours, theirs = (sorted(getattr(sizes, field.name)) for sizes in (found, expected))
            assert ours == theirs, field.name
        elif field.name != "loss_block":
            assert getattr(found, field.name) == getattr(expected, field.name), field.name
    room = room_of(draft.table, draft.layers_per_stage)
    assert step_bytes(found, room) == predict_memory(program)
    assert draft.state.total == _state_bytes(setup)
