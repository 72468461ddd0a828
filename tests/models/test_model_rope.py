"""Stretched rotary frequencies: small numbers by hand, and what a stretch does to the tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.models.rope import inverse_frequencies, rotary_tables, rotate

# Base 10**4 and 8 dims: the plain frequencies are 1, 0.1, 0.01, 0.001. A length of 2000 pi makes
# 1000, 100, 10 and 1 turns of them; lengths are integers, so 6283, and ramps move by 1e-4.
THETA, LENGTH = 1e4, 6283
BY_HAND = {
    "none": (RopeConfig(), [1, 0.1, 0.01, 0.001], 1),
    "linear": (RopeConfig("linear", factor=4.0), [0.25, 0.025, 0.0025, 0.00025], 1),
    # The base is 10**4 * 4**(8/6): pair i is divided by 4**(i/3).
    "ntk": (
        RopeConfig("ntk", factor=4.0), [1, 0.1 / 4 ** (1 / 3), 0.01 / 4 ** (2 / 3), 0.00025], 1),
    # 100 turns are made by "pair 0.99", 1 turn by "pair 2.99"; rounded outwards, the ramp goes from
    # pair 0 to pair 3: kept 1, 2/3, 1/3, 0.
    "yarn": (
        RopeConfig("yarn", factor=4.0, original_max_positions=LENGTH, beta_fast=100.0),
        [1, 0.1 * (2 / 3 + 1 / 12), 0.01 * (1 / 3 + 2 / 12), 0.00025], 0.1 * np.log(4) + 1),
    "yarn, given scale": (
        RopeConfig("yarn", factor=4.0, original_max_positions=LENGTH, beta_fast=100.0,
                   attention_factor=1.5),
        [1, 0.1 * (2 / 3 + 1 / 12), 0.01 * (1 / 3 + 2 / 12), 0.00025], 1.5),
    # Kept for 19 turns, divided for 1: pair 2 with its 10 turns is half of each.
    "llama3": (
        RopeConfig("llama3", factor=4.0, original_max_positions=LENGTH, high_freq_factor=19.0),
        [1, 0.1, 0.01 * (1 / 2 + 1 / 8), 0.00025], 1),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_frequencies_by_hand(name):
    rope, expected, scale = BY_HAND[name]
    frequencies, actual_scale = inverse_frequencies(8, theta=THETA, rope=rope)
    # 1e-4: the rounding of the length, where a ramp depends on it.
    np.testing.assert_allclose(frequencies, expected, rtol=1e-4 if name == "llama3" else 1e-12)
    assert actual_scale == pytest.approx(scale, rel=1e-14)


def test_a_ramp_of_no_width_is_a_step():
    rope = RopeConfig("yarn", factor=4.0, original_max_positions=LENGTH, beta_fast=1e9,
                      beta_slow=1e8)
    frequencies, _ = inverse_frequencies(8, theta=THETA, rope=rope)
    np.testing.assert_allclose(frequencies, [1, 0.025, 0.0025, 0.00025], rtol=1e-12)


@pytest.mark.parametrize("name", BY_HAND)
def test_tables_turn_by_the_frequencies_in_both_precisions(name):
    rope, _, _ = BY_HAND[name]
    frequencies, scale = inverse_frequencies(8, theta=THETA, rope=rope)
    positions = np.array([[0, 1, 99], [4095, 131_071, 1_000_000]], np.int32)
    angle = positions[..., None] * frequencies
    for x64, tolerance in ((False, 1e-3 + 1e-6), (True, 1e-9)):
        with jax.enable_x64(x64):
            tables = rotary_tables(jnp.asarray(positions), head_dim=8, theta=THETA, rope=rope)
        for actual, expected in zip(tables, (np.cos(angle), np.sin(angle)), strict=True):
            assert actual.shape == (2, 3, 4)
            np.testing.assert_allclose(actual, scale * expected, rtol=0, atol=scale * tolerance)


def test_rotate_with_a_scale_has_its_transpose():
    rope = BY_HAND["yarn, given scale"][0]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, dy = (jnp.asarray(rng.normal(size=(2, 5, 3, 8))) for _ in range(2))
        for shape in ((5,), (2, 5)):
            positions = jnp.asarray(rng.integers(0, 99, shape))
            tables = rotary_tables(positions, head_dim=8, theta=THETA, rope=rope)
            turned, pull = jax.vjp(lambda x, tables=tables: rotate(x, *tables), x)
            transpose = jax.linear_transpose(
                lambda x, tables=tables: rotate.__wrapped__(x, *tables), x
            )
            np.testing.assert_allclose(pull(dy)[0], transpose(dy)[0], rtol=1e-14, atol=1e-14)
            # Both queries and keys carry the scale: their products carry its square.
            np.testing.assert_allclose(
                jnp.vdot(turned, turned), 1.5**2 * jnp.vdot(x, x), rtol=1e-12
            )
