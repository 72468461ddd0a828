"""A stage that breaks a rule is refused where a step is built, in one line; others are accepted."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import build_step, check_stage, make_mesh
from seq1f1b_jax.pipeline.checks.check_stage import _check_once
from seq1f1b_jax.schedule import make_plan
from tests.pipeline.broken_stages import BREAKS, WideInPost
from tests.pipeline.cut_stage import CutStage
from tests.pipeline.mixing_stages import MIXES, MeanInPost, ShiftInPre
from tests.pipeline.own_stage import OwnStage
from tests.pipeline.unusual_stages import (
    KEEPS,
    Experts,
    Gated,
    InBlocks,
    MappedBlocks,
    Modulated,
    RotaryRows,
    SortedExperts,
)

ROPES = {
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_positions": 64},
    "llama3": {"type": "llama3", "factor": 8.0, "original_max_positions": 64},
}
OURS = {
    "gpt": build_stage("gpt", preset="tiny"),
    "gpt, tied": build_stage("gpt", preset="tiny", tied=True),
    "gpt, rotary": build_stage("gpt", preset="tiny", positions="rotary"),
    "llama": build_stage("llama", preset="tiny"),
    "llama, one key/value head": build_stage("llama", preset="tiny", num_kv_heads=1),
    "mistral": build_stage("llama", preset="tiny", window=3),
    "qwen2": build_stage("llama", preset="tiny", qkv_bias=True, tied=True),
    **{name: build_stage("llama", preset="tiny", rope=rope) for name, rope in ROPES.items()},
}
ACCEPTED = OURS | {cls.__name__: cls() for cls in (OwnStage, CutStage, *KEEPS)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("stage", ACCEPTED.values(), ids=ACCEPTED)
def test_stages_that_keep_the_rules_are_accepted(stage, dtype):
    check_stage(stage, compute_dtype=dtype)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_models_too_large_for_this_machine_are_accepted(name):
    check_stage(build_stage(name, preset="30b"))


@pytest.mark.parametrize("stage, function, message", MIXES.values(), ids=MIXES)
def test_a_function_that_mixes_tokens_is_refused(stage, function, message):
    line = refusal(stage)
    assert line.startswith(f"{type(stage).__name__}.{function} returned ")
    assert message in line and "token-wise" in line


@pytest.mark.parametrize("stage, message", BREAKS.values(), ids=BREAKS)
def test_what_breaks_another_rule_is_refused(stage, message):
    line = refusal(stage)
    assert [words for words in message if words not in line] == []


def refusal(stage) -> str:
    with pytest.raises(ValueError) as caught:
        check_stage(stage, compute_dtype=jnp.bfloat16)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LARGE = {"model_dim": 2**14, "num_heads": 2**13, "mlp_dim": 2**16}
READ = ["a mean in post", "a shift in pre", "a roll of keys in pre", "a state of blocks"]


@pytest.mark.parametrize("name", [*READ, "halves swapped", "pairs", "a loop over tokens in post"])
def test_a_large_stage_that_mixes_tokens_is_refused_though_nothing_of_it_is_made(name):
    assert re.search("depends? on other tokens", refusal(replace(MIXES[name][0], **LARGE)))


@pytest.mark.parametrize("cls", [MappedBlocks, Experts, RotaryRows, Modulated])
def test_a_large_stage_that_keeps_the_rules_is_read(cls):
    check_stage(replace(cls(), **LARGE))


@pytest.mark.parametrize("cls", [SortedExperts, Gated])
def test_a_large_stage_that_cannot_be_read_is_accepted_with_a_warning(cls):
    with pytest.warns(UserWarning, match=rf"{cls.__name__}.post returned .* a smaller size"):
        check_stage(replace(cls(), **LARGE))


def test_blocks_of_tokens_in_a_large_stage_are_refused_with_the_way_round():
    assert "in blocks of tokens, use jax.lax.map" in refusal(replace(InBlocks(), **LARGE))


def test_a_run_that_gives_nan_shows_nothing():
    class Roots(ShiftInPre):
        def pre(self, layer, x, context):
            return super().pre(layer | {"scale": jnp.sqrt(layer["scale"])}, x, context)

    assert "may depend on other tokens (pad, and a run gives NaN)" in refusal(Roots())


def test_a_cast_to_float32_is_refused_whatever_a_run_computes_in():
    with pytest.raises(ValueError, match=r"WideInPost.post returned float32.* for x bfloat16"):
        check_stage(WideInPost())


def test_build_step_refuses_and_checks_a_stage_once():
    plan, mesh = make_plan("seq1f1b", num_ranks=1, num_microbatches=1, num_chunks=1), make_mesh(1)
    with pytest.raises(ValueError, match="token-wise"):
        build_step(MeanInPost(), plan, mesh, chunk_lengths=(4,))
    stage = OwnStage(num_layers=5)
    before = _check_once.cache_info()
    for length in (4, 5):
        build_step(replace(stage), plan, mesh, chunk_lengths=(length,))
    after = _check_once.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 1)


IDS = {
    "a token too large": ([[0, 11]], [[1, 1]], r"tokens\[0, 0, 1\] is 11; token ids.*vocab_size"),
    "a negative token": ([[-1, 2]], [[1, 1]], r"tokens\[0, 0, 0\] is -1; token ids must be at lea"),
    "a target too large": ([[1, 2]], [[-1, 12]], r"targets\[0, 0, 1\] is 12; .* vocab_size=11"),
}


@pytest.mark.parametrize("tokens, targets, message", IDS.values(), ids=IDS)
@pytest.mark.parametrize("kind", [np.array, jnp.array], ids=["numpy", "jax"])
def test_ids_outside_the_vocabulary_are_refused(tokens, targets, message, kind):
    stage = OwnStage()
    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=1, num_chunks=1)
    step = build_step(stage, plan, make_mesh(1), chunk_lengths=(2,))
    batch = kind([tokens]), kind([targets])
    params = jax.eval_shape(stage.init, jax.random.key(0))
    for call in (step.loss_and_grads, step.loss, lambda *args: reference_loss(stage, *args)):
        with pytest.raises(ValueError, match=message):
            call(params, *batch)
