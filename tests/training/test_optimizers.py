"""Every optimizer on a mesh against plain Optax on one device, and its state in a checkpoint."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree import leaves_with_path
from jax.tree_util import keystr

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.config.optimizer import resolve_optimizer
from seq1f1b_jax.pipeline.params.layout import staged_shapes
from seq1f1b_jax.pipeline.params.rows import put_tree
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, open_state
from seq1f1b_jax.training.optimizer import learning_rate_schedule, make_optimizer
from seq1f1b_jax.training.step import init_state, make_train_step, state_shardings
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.errors import relative_errors

STEPS = 10
RATE = dict(learning_rate=0.02, warmup_steps=3, clip_norm=2.0, weight_decay=0.3)
SETTINGS = {
    "adamw": OptimizerConfig(**RATE, b2=0.9),
    "lion": OptimizerConfig("lion", **RATE, b2=0.95),
    "muon": OptimizerConfig("muon", "linear", **RATE, momentum=0.8, ns_steps=4, consistent_rms=0.3),
    "muon without nesterov": OptimizerConfig("muon", **RATE, nesterov=False),
    "adafactor": OptimizerConfig("adafactor", "wsd", **RATE, min_dim_size_to_factor=9),
    "adafactor, other options": OptimizerConfig(
        "adafactor", **RATE, min_dim_size_to_factor=17, parameter_scale=False, clip_rms=0.5,
        decay_rate=0.6,
    ),
}
EVEN = Case(D=2, P=2, T=2, M=2, C=2, lengths="even")
UNEVEN = EVEN._replace(layers="balanced", tied=True, family="gpt")
"""Stages of 2 and 1 layers; tables of 19 and 16 rows on four devices, so with padding."""


class Matrix(NamedTuple):
    """One matrix or vector of the model, as plain Optax sees it."""

    name: str
    layer: int | None
    shape: tuple[int, ...]


def apart(params):
    """Each matrix and vector of every layer on its own; more than two dims are one matrix."""
    found = {}
    for path, leaf in leaves_with_path(params):
        layers = getattr(path[0], "name", None) == "layers"
        for layer, part in enumerate(leaf) if layers else [(None, leaf)]:
            shaped = part.reshape(-1, part.shape[-1]) if part.ndim > 2 else part
            found[Matrix(keystr(path), layer, part.shape)] = shaped
    return found


def together(matrices, like):
    """The inverse."""
    def stack(path, leaf):
        own = sorted(key for key in matrices if key.name == keystr(path))
        parts = [matrices[key].reshape(key.shape) for key in own]
        return parts[0] if own[0].layer is None else jnp.stack(parts)

    return jax.tree.map_with_path(stack, like)


def plain(config: OptimizerConfig) -> optax.GradientTransformation:
    """The same from Optax alone, over `apart`."""
    settings, rate = resolve_optimizer(config), learning_rate_schedule(config, STEPS)
    decay = config.weight_decay
    is_matrix = lambda params: {key: leaf.ndim >= 2 for key, leaf in params.items()}  # noqa: E731
    adam = {name: settings[name] for name in ("b1", "b2", "eps") if name in settings}
    if config.name == "adamw":
        whole = optax.adamw(rate, **adam, weight_decay=decay, mask=is_matrix)
    elif config.name == "lion":
        whole = optax.lion(rate, **adam, weight_decay=decay, mask=is_matrix)
    elif config.name == "muon":
        muon = optax.contrib.muon(
            rate, ns_steps=settings["ns_steps"], beta=settings["momentum"], weight_decay=decay,
            nesterov=settings["nesterov"], consistent_rms=settings["consistent_rms"],
        )

        def kind(key, leaf):
            return "adamw" if key.layer is None or leaf.ndim < 2 else "muon"

        whole = optax.partition(
            {"muon": muon, "adamw": optax.adamw(rate, **adam, weight_decay=decay, mask=is_decayed)},
            lambda params: {key: kind(key, leaf) for key, leaf in params.items()},
        )
    else:
        factored = optax.adafactor(
            None, settings["min_dim_size_to_factor"], settings["decay_rate"],
            multiply_by_parameter_scale=settings["parameter_scale"],
            clipping_threshold=settings["clip_rms"],
        )
        whole = optax.chain(
            factored, optax.scale(-1), optax.add_decayed_weights(decay, is_matrix),
            optax.scale_by_learning_rate(rate),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), whole)


def is_decayed(params):
    """A partition hides what is another's."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def gradients(params, step):
    """Of this step, different in size from leaf to leaf; they depend on the parameters."""
    rng = np.random.default_rng(step)

    def draw(leaf):
        scale = 10.0 ** rng.uniform(-3, 0)
        return scale * (jnp.asarray(rng.normal(size=leaf.shape)) + 0.1 * leaf)

    return jax.tree.map(draw, params)


@cache
def pipeline_of(case):
    return cases.build(case)


def updates_on(case, config):
    """`(params, state, grads) -> (params, state)`, jitted on the case's mesh, and the pipeline."""
    step = pipeline_of(case)
    optimizer = make_optimizer(config, STEPS, pipeline=step)

    @jax.jit
    def update(params, state, grads):
        updates, new = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), new

    return step, optimizer, update


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("case", [UNEVEN, EVEN], ids=["uneven", "even"])
def test_ten_updates_on_a_mesh_equal_plain_optax(x64, case, name):
    config = SETTINGS[name]
    step, optimizer, update = updates_on(case, config)
    expected = cases.parameters(step.stage, jnp.float64)
    params = step.from_canonical(expected)
    state = step.init_optimizer(optimizer, params)
    reference = plain(config)
    kept = reference.init(apart(expected))
    plain_update = jax.jit(reference.update)
    for number in range(STEPS):
        grads = gradients(expected, number)
        params, state = update(params, state, step.from_canonical(grads, over_data=True))
        own = apart(expected)
        changes, kept = plain_update(apart(grads), kept, own)
        expected = together(optax.apply_updates(own, changes), expected)
    errors = relative_errors(step.to_canonical(params), expected)
    assert {leaf: error for leaf, error in errors.items() if not error <= 1e-10} == {}
    for leaf in jax.tree.leaves(params):
        assert bool(jnp.isfinite(leaf).all())
    back = step.from_canonical(step.to_canonical(params))
    for leaf, again in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(leaf, again)  # padding is zero still
