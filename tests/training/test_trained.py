"""Optimizers of some leaves only: which are matrices, and what their state is made of."""

import jax
import jax.numpy as jnp
import optax
import pytest

from seq1f1b_jax.config import LoraConfig, OptimizerConfig
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.params.layout import staged_shapes
from seq1f1b_jax.pipeline.stage import leaf_name
from seq1f1b_jax.schedule import make_plan
from seq1f1b_jax.training.optimizer import make_optimizer
from seq1f1b_jax.training.optimizer.leaves import decay_mask

OPTIMIZERS = {
    "adamw": OptimizerConfig(), "lion": OptimizerConfig("lion"), "muon": OptimizerConfig("muon"),
    "adafactor": OptimizerConfig("adafactor", min_dim_size_to_factor=2),
}


def step_of(*trainable):
    """A model of two ranks, with adapters of rank one, that trains no table."""
    stage = build_stage("llama", preset="tiny", lora=LoraConfig(rank=1))
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)
    options = ExecutorOptions(trainable=trainable)
    return build_step(stage, plan, make_mesh(2), chunk_lengths=(16,), options=options)


def test_matrices_are_found_where_no_table_trains():
    """In memory, where ranks and layers are counted, and free of topology, where layers are."""
    step = step_of("layers.*", "last.*")
    shapes = jax.eval_shape(step.stage.init, jax.random.key(0))
    for params in (step.abstract_params(), shapes):
        mask = decay_mask(step.trained.only(params), step)
        found = {leaf_name(path): is_one for path, is_one in jax.tree.leaves_with_path(mask)}
        assert {name for name, is_one in found.items() if not is_one} == {
            "layers.attention_norm.scale", "layers.mlp_norm.scale", "last.scale"
        }
        assert found["layers.attention.query.lora_a"] and found["layers.mlp.up.kernel"]
    with pytest.raises(ValueError, match="no vocabulary table trains, so the layout .* cannot be"):
        decay_mask(step.trained.only(shapes))


@pytest.mark.parametrize("config", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_state_is_of_what_trains_in_every_layout(config):
    step = step_of("*.lora_?", "last.*")
    optimizer = make_optimizer(config, 10, pipeline=step)
    own = step.trained.only(step.abstract_params())
    state = jax.eval_shape(optimizer.init, own)
    free = jax.eval_shape(
        optimizer.init, step.trained.only(jax.eval_shape(step.stage.init, jax.random.key(0)))
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(staged_shapes(free, step.layout))]
    assert shapes == [leaf.shape for leaf in jax.tree.leaves(state)]
    assert not any("kernel" in leaf_name(path) for path, _ in jax.tree.leaves_with_path(state))
    grads = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), own)
    updates, _ = jax.eval_shape(optimizer.update, grads, state, own)
    after = jax.eval_shape(optax.apply_updates, own, updates)
    assert jax.tree.structure(after) == jax.tree.structure(own)
