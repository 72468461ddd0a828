"""What a plan writes down is what the executor finds by tracing, for every model and mesh."""

from dataclasses import fields, replace

import jax
import numpy as np
import pytest

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.pipeline.memory import predict_memory, sizes_of
from seq1f1b_jax.schedule.memory.terms import room_of, step_bytes
from seq1f1b_jax.training.faults.needs import _state_bytes, program_of
from tests.plan.cases import CASES, draft_of, setup_of

LONG = {
    "split none", "split matmuls", "split full", "gemma in halves", "experts none",
    "experts in halves", "experts split full", "experts split matmuls", "experts frozen, none",
    "experts train, split", "router trains, split full", "lora beside experts, split",
    "norms train, none", "positions train", "heads train, one rank", "MLP trains, split",
    "one matrix trains, split full", "heads train, split matmuls", "lora, split none",
    "lora, split full", "lora, split matmuls", "lora of all, none", "lora, none",
    "lora in halves", "lora, everything again",
}  # fmt: skip
"""Of these the other cases show each part."""
assert set(CASES) > LONG


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in CASES]
)
def test_sizes_and_bytes_are_those_of_the_program(name):
    config = CASES[name]
    draft, setup = draft_of(config), setup_of(config)
    program = program_of(setup)
    assert draft.lengths == program.lengths
    assert draft.cost == setup.cost
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


OPTIMIZERS = {
    "adamw": OptimizerConfig(),
    "lion": OptimizerConfig("lion"),
    "muon": OptimizerConfig("muon"),
    "adafactor": OptimizerConfig("adafactor", min_dim_size_to_factor=96),
    "adafactor of wide matrices": OptimizerConfig("adafactor"),
}
STATES = [
    "gpt", "one rank, untied", "shared heads", "data", "data and tensor", "interleaved",
    "experts, two pipelines",
    "lora, tensor", "lora of all, none", "norms train, none",
]


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bytes_of_every_optimizer_are_those_of_its_state(optimizer, name):
    config = replace(CASES[name], optimizer=OPTIMIZERS[optimizer])
    assert draft_of(config).state.total == _state_bytes(setup_of(config))


@pytest.mark.parametrize("optimizer", ["lion", "muon", "adafactor"])
def test_a_device_holds_the_bytes_that_are_planned(optimizer):
    config = replace(CASES["data and tensor"], optimizer=OPTIMIZERS[optimizer])
    setup, steps_of_run = setup_of(config), 4
    shapes = setup.pipeline.abstract_params()
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = setup.pipeline.init_optimizer(setup.optimizer, params)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert draft_of(config).state.moments == held + steps_of_run
