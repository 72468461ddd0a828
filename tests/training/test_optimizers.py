"""Every optimizer on a mesh against plain Optax on one device, and its state in a checkpoint."""

from dataclasses import dataclass
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline import ExecutorOptions, Params, PipelineStep, make_layout, make_mesh
from seq1f1b_jax.pipeline.build import choose_attention
from seq1f1b_jax.pipeline.params.layout import staged_shapes, tensor_dims_of
from seq1f1b_jax.pipeline.params.rows import put_tree
from seq1f1b_jax.schedule import lower, make_plan
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, open_state
from seq1f1b_jax.training.optimizer import make_optimizer
from seq1f1b_jax.training.step import TrainState, init_state, make_train_step, state_shardings
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.cut_stage import CutStage
from tests.pipeline.errors import relative_errors
from tests.training.plain_optax import reference_of

STEPS = 10
NAMES = ["adamw", "lion", "muon", "adafactor"]
RATE = dict(learning_rate=0.02, warmup_steps=3, clip_norm=2.0, weight_decay=0.3)
SETTINGS = {
    "adamw": OptimizerConfig(**RATE, b2=0.9),
    "lion": OptimizerConfig("lion", **RATE, b2=0.95),
    "muon": OptimizerConfig("muon", "linear", **RATE, momentum=0.8, ns_steps=4, consistent_rms=0.3),
    "muon without nesterov": OptimizerConfig("muon", **RATE, nesterov=False),
    "adafactor": OptimizerConfig("adafactor", "wsd", **RATE, min_dim_size_to_factor=6),
    "adafactor, other options": OptimizerConfig(
        "adafactor", **RATE, min_dim_size_to_factor=8, parameter_scale=False, clip_rms=0.5,
        decay_rate=0.6,
    ),
}
SLOW = [
    pytest.param(name, layers, marks=pytest.mark.slow) for name, layers in [
        ("muon", (4, 3)), ("muon", (3, 2)), ("muon", (2, 2)), ("muon without nesterov", (4, 3)),
        ("adafactor", (3, 3)), ("adafactor, other options", (4, 3)),
    ]
]


@dataclass(frozen=True)
class Leaves(CutStage):
    """A model with one leaf of every kind; it is laid out, and never run."""

    num_heads: int = 2
    head_dim: int = 3
    mlp_dim: int = 12
    vocab_size: int = 21
    num_positions: int = 17

    def init(self, key) -> Params:
        d, mlp, layers = self.model_dim, self.mlp_dim, self.num_layers
        shapes = {
            "output": (self.num_heads, self.head_dim, d), "up": (d, mlp), "bias": (mlp,),
            "down": (mlp, d), "whole": (d, 9), "scale": (d,), "experts": (3, d, mlp),
        }
        stacked = {name: jnp.zeros((layers, *shape)) for name, shape in shapes.items()}
        first = {"table": jnp.zeros((self.num_positions, d))}
        embedding, head = jnp.zeros((2, self.vocab_size, d))
        return Params(stacked, first, {"scale": jnp.zeros(d)}, embedding, head)


@cache
def pipeline_of(layers, mesh=(2, 2, 2)):
    """Leaves on a mesh of (data, pipe, tensor)."""
    data, pipe, tensor = mesh
    stage = Leaves(sum(layers))
    layout = make_layout(
        stage.num_layers, pipe, vocab_size=stage.vocab_size, tied=False, layers_per_stage=layers,
        num_tensor=tensor, tensor_dims=tensor_dims_of(stage, stage.shard(TensorAxis(tensor))),
        position_tables={"first.table": stage.num_positions},
    )
    devices = make_mesh(pipe, num_data=data, num_tensor=tensor)
    plan = make_plan("seq1f1b", num_ranks=pipe, num_microbatches=1, num_chunks=1)
    options = ExecutorOptions()
    attention = choose_attention(stage, devices, options)
    return PipelineStep(stage, plan, lower(plan, (8,)), devices, layout, attention, options)


def gradients(params, step):
    """Of this step, different in size from leaf to leaf; they depend on the parameters."""
    rng = np.random.default_rng(step)

    def draw(leaf):
        return 10.0 ** rng.uniform(-3, 0) * (rng.normal(size=leaf.shape) + 0.1 * np.asarray(leaf))

    return jax.tree.map(draw, params)


def updates_of(config, step):
    """The optimizer, and `(params, state, grads) -> (params, state)`, jitted, on the mesh."""
    optimizer = make_optimizer(config, STEPS, pipeline=step)

    @jax.jit
    def update(params, state, grads):
        updates, new = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), new

    return optimizer, update


@pytest.mark.parametrize("name, layers", [*((name, (2, 1)) for name in NAMES), *SLOW])
def test_ten_updates_on_a_mesh_equal_plain_optax(x64, name, layers):
    step = pipeline_of(layers)
    optimizer, update = updates_of(SETTINGS[name], step)
    expected = cases.parameters(step.stage, jnp.float64)
    params = step.from_canonical(expected)
    state = step.init_optimizer(optimizer, params)
    kept, plain_update = reference_of(SETTINGS[name], expected, STEPS)
    for number in range(STEPS):
        grads = gradients(expected, number)
        params, state = update(params, state, step.from_canonical(grads, over_data=True))
        expected, kept = plain_update(expected, kept, grads)
    check_params(step, params, expected)


def check_params(step, params, expected, *, error=1e-10):
    """Parameters on the mesh are the expected ones; padding is zero still."""
    back = step.to_canonical(params)
    errors = relative_errors(back, expected)
    assert {leaf: found for leaf, found in errors.items() if not found <= error} == {}
    again = step.from_canonical(back)
    for leaf, other in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["llama", "gpt rotary"])
def test_ten_steps_of_training_equal_plain_optax(x64, name, family):
    case = Case(
        D=2, P=2, T=2, M=2, C=2, lengths="odd", layers="balanced", family=family, masks="restart",
        sequence=False,
    )  # fmt: skip
    step = cases.build(case)
    optimizer = make_optimizer(SETTINGS[name], STEPS, pipeline=step)
    expected = cases.parameters(step.stage, jnp.float64)
    batch = cases.batch_of(case)
    state = init_state(step, optimizer, step.from_canonical(expected))
    kept, plain_update = reference_of(SETTINGS[name], expected, STEPS)
    train_step = make_train_step(step, optimizer)
    for _ in range(STEPS):
        state, _ = train_step(state, *batch)
        _, grads = cases.reference(step.stage, expected, batch, case.dtype, restart=True)
        expected, kept = plain_update(expected, kept, grads)
    check_params(step, state.params, expected)


@pytest.mark.parametrize(
    "name", ["muon", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "muon")]
)
def test_a_run_goes_on_on_another_mesh(x64, name, tmp_path):
    """Four updates, a checkpoint, four more: on one mesh, and on another one from there."""
    here, there = pipeline_of((2, 1)), pipeline_of((1, 1, 1), (1, 3, 2))
    optimizer, update = updates_of(SETTINGS[name], here)
    expected = cases.parameters(here.stage, jnp.float64)
    state = init_state(here, optimizer, here.from_canonical(expected))
    params, kept = state.params, state.optimizer

    def train(step, update, params, kept, numbers):
        for number in numbers:
            grads = gradients(expected, number)
            params, kept = update(params, kept, step.from_canonical(grads, over_data=True))
        return params, kept

    params, kept = train(here, update, params, kept, range(4))
    shapes = jax.eval_shape(
        lambda params: TrainState(params, optimizer.init(params), state.step), expected
    )
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(
            4, TrainState(params, kept, state.step), meta={}, like=shapes, layout=here.layout
        )
    params, kept = train(here, update, params, kept, range(4, 8))

    other, update = updates_of(SETTINGS[name], there)
    rows = open_state(find_checkpoint(tmp_path), shapes)
    staged = staged_shapes(rows, there.layout)
    restored = put_tree(rows, state_shardings(staged, there), there.layout)
    moved = train(there, update, restored.params, restored.optimizer, range(4, 8))
    check_params(there, moved[0], here.to_canonical(params))
    fresh = jax.eval_shape(other.init, restored.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored.optimizer, fresh)
