"""Which dtype activations have on which device, and what is said about it."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from seq1f1b_jax.training.setup import compute_dtype

CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
V100 = SimpleNamespace(platform="gpu", device_kind="V100", compute_capability="7.0")
H100 = SimpleNamespace(platform="gpu", device_kind="H100", compute_capability="9.0")
B200 = SimpleNamespace(platform="gpu", device_kind="B200", compute_capability="10.0")


@pytest.mark.parametrize(
    "setting, device, expected",
    [
        ("auto", CPU, jnp.float32),
        ("float32", V100, jnp.float32),
        ("auto", H100, jnp.bfloat16),
        ("auto", B200, jnp.bfloat16),
        ("float32", H100, jnp.float32),
        ("bfloat16", H100, jnp.bfloat16),
        ("bfloat16", CPU, jnp.bfloat16),
    ],
    ids=lambda value: getattr(value, "device_kind", None),
)
def test_what_is_asked_for_and_possible_is_used_without_a_word(setting, device, expected):
    assert compute_dtype(setting, device) == (expected, ())


@pytest.mark.parametrize("setting", ["auto", "bfloat16"])
def test_a_gpu_without_bfloat16_computes_in_float32_and_says_so(setting):
    dtype, notes = compute_dtype(setting, V100)
    assert dtype == jnp.float32
    assert notes == ("V100 (compute capability 7.0) has no bfloat16: computing in float32",)
