"""Decoding over the cache is the full forward pass, and sampling does what its arguments say."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.inference import Cache, decode_step, forward, generate, logits, stream
from seq1f1b_jax.inference.forward import caching_attention, head
from seq1f1b_jax.inference.generate import _decode, _nucleus
from seq1f1b_jax.models import build_stage

SIZES = {
    "num_layers": 2, "model_dim": 16, "num_heads": 4, "mlp_dim": 24, "vocab_size": 13,
    "max_positions": 24,
}
STAGES = {
    "gpt": build_stage("gpt", **SIZES, tied=True),
    "llama": build_stage("llama", **SIZES, num_kv_heads=2),
    "layers that differ": build_stage(
        "llama", **SIZES, num_kv_heads=2, layer_pattern=["window", "unrotated"], window=4,
        qk_norm="head", norm_placement="both", attention_softcap=2.0, logit_softcap=3.0,
        embedding_scale=2.0,
    ),
    "experts": build_stage("llama", **SIZES, num_experts=5, experts_per_token=2),
}
TOKENS = np.random.default_rng(0).integers(0, 13, (2, 12)).astype(np.int32)
PROMPT = TOKENS[:, :3]


@pytest.fixture(params=STAGES)
def stage(request):
    return STAGES[request.param]


@cache
def parameters(stage, dtype=np.float32):
    """Parameters large enough that logits differ by more than rounding."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return jax.tree.map(lambda s: (0.3 * rng.normal(size=s.shape)).astype(dtype), shapes)


plain_logits = jax.jit(logits, static_argnums=0)


def prefill(stage, params, tokens):
    return forward(stage, params, tokens, attention=caching_attention("xla_blockwise"))


@pytest.mark.parametrize(("prompt", "capacity"), [(1, 12), (7, 19)])
def test_decoding_over_the_cache_is_the_full_forward(stage, prompt, capacity):
    with jax.enable_x64(True):
        params = parameters(stage, np.float64)
        full = plain_logits(stage, params, jnp.asarray(TOKENS))
        y, cache = jax.jit(partial(prefill, stage))(params, jnp.asarray(TOKENS[:, :prompt]))
        np.testing.assert_allclose(head(stage, params, y), full[:, :prompt], rtol=1e-12, atol=1e-12)
        # Beyond the prompt: values that no weight but an exact zero would hide.
        space = ((0, 0), (0, 0), (0, capacity - prompt), (0, 0), (0, 0))
        cache = Cache(*(np.pad(entries, space, constant_values=1e30) for entries in cache))
        step = jax.jit(partial(decode_step, stage))
        for position in range(prompt, TOKENS.shape[1]):
            y, cache = step(params, TOKENS[:, position], cache=cache, position=position)
            np.testing.assert_allclose(
                head(stage, params, y)[:, 0], full[:, position], rtol=1e-11, atol=1e-11
            )


@pytest.mark.parametrize("attention", ["xla_dense", "xla_blockwise"])
def test_greedy_is_the_argmax_of_the_full_forward(stage, attention):
    params = parameters(stage)
    sampled = generate(
        stage, params, PROMPT, num_tokens=8, key=jax.random.key(0), temperature=0,
        attention=attention,
    )
    assert sampled.dtype == jnp.int32
    whole = jnp.concatenate([PROMPT, sampled], axis=1)
    expected = plain_logits(stage, params, whole).argmax(-1)[:, PROMPT.shape[1] - 1 : -1]
    np.testing.assert_array_equal(sampled, expected)


def test_key_and_index_decide_the_tokens(stage):
    params = parameters(stage)

    def sample(seed):
        return np.asarray(
            generate(stage, params, PROMPT, num_tokens=8, key=jax.random.key(seed))
        )

    np.testing.assert_array_equal(sample(0), sample(0))
    assert not np.array_equal(sample(0), sample(1))


def test_a_small_nucleus_is_greedy(stage):
    params = parameters(stage)
    options = {"num_tokens": 8, "key": jax.random.key(3)}
    np.testing.assert_array_equal(
        generate(stage, params, PROMPT, top_p=1e-6, **options),
        generate(stage, params, PROMPT, temperature=0, **options),
    )


def test_nucleus_keeps_the_fewest_tokens_that_suffice():
    probabilities = jnp.array([0.1, 0.5, 0.05, 0.3, 0.05])
    for top_p, kept in [(0.4, {1}), (0.6, {1, 3}), (0.85, {0, 1, 3})]:
        limited = _nucleus(jnp.log(probabilities), top_p)
        assert set(np.flatnonzero(np.isfinite(limited))) == kept


def test_sampled_frequencies_follow_the_temperature():
    stage = STAGES["gpt"]
    params = parameters(stage)
    prompts = jnp.broadcast_to(jnp.asarray(TOKENS[:1, :3]), (4000, 3))
    sampled = generate(
        stage, params, prompts, num_tokens=1, key=jax.random.key(5), temperature=2.0
    )
    expected = jax.nn.softmax(plain_logits(stage, params, prompts[:1])[0, -1] / 2.0)
    found = np.bincount(np.asarray(sampled[:, 0]), minlength=13) / 4000
    # Five standard deviations of a frequency near 1/2 over 4000 draws.
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / np.sqrt(4000))


def test_bfloat16_stays_bfloat16(stage):
    params = parameters(stage, jnp.bfloat16)
    y, cache = jax.eval_shape(partial(prefill, stage), params, TOKENS)
    assert {value.dtype for value in (y, *cache)} == {jnp.dtype(jnp.bfloat16)}
    step = jax.eval_shape(
        partial(decode_step, stage), params, TOKENS[:, 0], cache=cache, position=3
    )
    assert {value.dtype for value in (step[0], *step[1])} == {jnp.dtype(jnp.bfloat16)}
    assert jax.eval_shape(partial(head, stage), params, y).dtype == jnp.float32
    tokens = generate(stage, params, PROMPT, num_tokens=1, key=jax.random.key(0))
    assert ((np.asarray(tokens) >= 0) & (np.asarray(tokens) < 13)).all()


def test_stream_yields_one_position_at_a_time(stage):
    params = parameters(stage)
    options = {"num_tokens": 8, "key": jax.random.key(0)}
    tokens = stream(stage, params, PROMPT, **options)
    first = next(tokens)
    assert first.shape == (2,)
    rest = list(tokens)
    assert len(rest) == 7
    np.testing.assert_array_equal(
        jnp.stack([first, *rest], axis=1), generate(stage, params, PROMPT, **options)
    )


def test_decode_compiles_once_for_all_settings():
    stage = STAGES["llama"]
    before = _decode._cache_size()
    for temperature, top_p, seed in [(0.7, 1.0, 0), (0.9, 0.5, 1)]:
        generate(
            stage, parameters(stage), TOKENS[:, :2], num_tokens=4, key=jax.random.key(seed),
            temperature=temperature, top_p=top_p,
        )
    assert _decode._cache_size() == before + 1


def test_learned_positions_reach_exactly_to_the_table():
    stage = STAGES["gpt"]
    params = parameters(stage)
    # The last sampled token is not embedded: 22 + 3 - 1 = 24 positions.
    tokens = generate(
        stage, params, np.zeros((1, 22), np.int32), num_tokens=3, key=jax.random.key(0)
    )
    assert tokens.shape == (1, 3)
    with pytest.raises(ValueError, match="need 25 positions.*max_positions=24; use num_tokens=3"):
        stream(stage, params, np.zeros((1, 22), np.int32), num_tokens=4, key=jax.random.key(0))


def test_rotary_has_no_table_to_leave():
    stage = STAGES["llama"]
    tokens = generate(
        stage, parameters(stage), np.zeros((1, 30), np.int32), num_tokens=2, key=jax.random.key(0)
    )
    assert tokens.shape == (1, 2)


ERRORS = {
    "token outside the vocabulary": (
        {"prompt_tokens": np.array([[1, 13]])}, "token 13, .* vocab_size=13"),
    "negative token": ({"prompt_tokens": np.array([[-1, 2]])}, "token -1, .* vocab_size=13"),
    "empty prompt": ({"prompt_tokens": np.zeros((1, 0), np.int32)}, r"shape \(1, 0\)"),
    "flat prompt": ({"prompt_tokens": np.zeros(3, np.int32)}, r"shape \(3,\)"),
    "negative count": ({"num_tokens": -1}, "num_tokens=-1 is negative"),
    "negative temperature": ({"temperature": -0.5}, "temperature=-0.5 is negative"),
    "no nucleus": ({"top_p": 0.0}, r"top_p=0.0 is not in \(0, 1\]"),
    "too large a nucleus": ({"top_p": 1.5}, r"top_p=1.5 is not in \(0, 1\]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_names_the_number(case):
    changes, message = ERRORS[case]
    stage = STAGES["gpt"]
    arguments = {
        "prompt_tokens": PROMPT, "num_tokens": 2, "key": jax.random.key(0), **changes
    }
    with pytest.raises(ValueError, match=message):
        stream(stage, None, **arguments)


def test_a_stage_that_cannot_be_hashed_is_refused():
    @dataclass
    class Thawed:
        num_layers: int = 1

    with pytest.raises(ValueError, match="Thawed cannot be hashed.*frozen dataclass"):
        stream(Thawed(), None, PROMPT, num_tokens=2, key=jax.random.key(0))
