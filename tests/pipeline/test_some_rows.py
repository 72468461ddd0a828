"""Rows made alone: the bits of the whole array, and the memory of the rows."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.params import fresh as fresh_module
from seq1f1b_jax.pipeline.params.fresh import fresh
from seq1f1b_jax.pipeline.params.some_rows import _product, random_bits, some_rows
from tests.compiled import compiled
from tests.pipeline.own_stage import OwnStage

ROOT = Path(__file__).parents[2]
KEY = jax.random.key(3)


def one_key_per_layer(key):
    return jax.vmap(lambda key: jax.random.normal(key, (40, 3)) / 7)(jax.random.split(key, 9))


def ones(key):
    return jnp.ones((9, 40, 3))


def one_key_for_all(key):
    bound = jnp.sqrt(6 / 40)
    return jax.random.uniform(key, (9, 40, 3), minval=-bound, maxval=bound)


def by_index(key):
    def layer(index):
        wide = jax.random.truncated_normal(jax.random.fold_in(key, index), -2, 2, (40, 3))
        return wide * jnp.where(index % 2, 1.0, 1 / jnp.sqrt(index + 1.0))

    return jax.vmap(layer)(jnp.arange(9))


def shifted_table(key):
    return 1 + jnp.reshape(0.3 * jax.random.normal(key, (9, 120)), (9, 40, 3))


def checkpointed(key):
    return jax.checkpoint(one_key_for_all)(key)


@pytest.mark.parametrize(
    "function", [one_key_per_layer, one_key_for_all, by_index, shifted_table, ones, checkpointed]
)
@pytest.mark.parametrize("count", [1, 4])
def test_rows_are_those_of_the_whole(function, count):
    whole = jax.jit(function)(KEY)
    make = some_rows(jax.make_jaxpr(function)(KEY), 0, count)
    assert make is not None
    for start in range(9 - count + 1):
        rows = make(KEY, np.int32(start))
        np.testing.assert_array_equal(rows, whole[start : start + count])


def orthogonal(key):
    return jnp.linalg.qr(jax.random.normal(key, (8, 8)))[0]


def of_norm_one(key):
    table = jax.random.normal(key, (9, 40))
    return table / jnp.linalg.norm(table, axis=0)


def folded(key):
    return jax.vmap(lambda at: jax.random.normal(jax.random.fold_in(key, at), (40, 3)))(
        jnp.arange(9)
    )


# id -> function, its key
WHOLE = {
    "orthogonal": (orthogonal, KEY),
    "of norm one": (of_norm_one, KEY),
    **{
        f"{impl}, {function.__name__}": (function, jax.random.key(3, impl=impl))
        for impl in ("rbg", "unsafe_rbg")
        for function in (one_key_per_layer, one_key_for_all, folded)
    },
}


@pytest.mark.parametrize("function, key", WHOLE.values(), ids=WHOLE)
def test_rows_that_depend_on_each_other_are_not_made_apart(function, key):
    assert some_rows(jax.make_jaxpr(function)(key), 0, 1) is None


def test_places_beyond_32_bits_are_hashed_right():
    """Of an array of 2**40 entries, which nobody could make whole."""
    shape = (1, 2**16)
    for start in (0, 2**16 - 1, 2**16, 3 * 2**20 + 5):
        bits = random_bits(KEY, jnp.int32(start), shape, bit_width=32)
        place = start * 2**16 + np.arange(2**16, dtype=np.uint64)
        high, low = (place >> np.uint64(32)).astype("u4"), place.astype("u4")
        first, second = hashed(jax.random.key_data(KEY), high, low)
        np.testing.assert_array_equal(bits[0], first ^ second)


def hashed(key, high, low):
    """Threefry-2x32 with 20 rounds, in NumPy."""
    one, two = (np.uint32(word) for word in key)
    keys = [one, two, one ^ two ^ np.uint32(0x1BD11BDA)]
    rotations = [(13, 15, 26, 6), (17, 29, 16, 24)]
    with np.errstate(over="ignore"):
        a, b = high + keys[0], low + keys[1]
        for block in range(5):
            for turn in rotations[block % 2]:
                a = a + b
                b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
            a = a + keys[(block + 1) % 3]
            b = b + keys[(block + 2) % 3] + np.uint32(block + 1)
    return a, b


@pytest.mark.parametrize("a", [0, 1, 2**16 - 1, 2**16, 2**31 + 12345])
@pytest.mark.parametrize("b", [1, 65_537, 2**32 - 1])
def test_a_product_of_two_words(a, b):
    high, low = _product(jnp.uint32(a), b)
    assert int(high) << 32 | int(low) == a * b


@pytest.mark.parametrize("family", ["gpt", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_model_is_made_row_by_row_and_no_program_holds_more(family, monkeypatch):
    monkeypatch.setattr(fresh_module, "PIECE_BYTES", 1)
    programs = []

    def watched(traced, at, count):
        made = some_rows(traced, at, count)
        assert count == 1 and made is not None
        programs.append((made, traced.jaxpr.outvars[at].aval))
        return made

    monkeypatch.setattr(fresh_module, "some_rows", watched)
    stage = build_stage(family, preset="tiny", num_layers=32)
    rows = fresh(stage, KEY)
    expected = jax.jit(stage.init)(KEY)
    for path, leaf in jax.tree.leaves_with_path(rows):
        np.testing.assert_array_equal(np.asarray(leaf), _at(expected, path), str(path))
    for make, aval in programs:
        memory = compiled(make.lower(KEY, np.int32(0))).memory_analysis()
        num_bytes = 4 * aval.size // aval.shape[0]
        assert memory.output_size_in_bytes == num_bytes
        assert memory.temp_size_in_bytes <= 5 * num_bytes + 4096  # random bits and their places


def _at(tree, path):
    for key in path:
        tree = getattr(tree, key.name) if hasattr(key, "name") else tree[key.key]
    return tree


def test_a_leaf_without_rows_and_one_of_dependent_rows_come_whole(monkeypatch):
    class Odd(OwnStage):
        def init(self, key):
            params = super().init(key)
            wide = jnp.linalg.qr(params.embedding.T @ params.embedding)[0]
            return params._replace(first={"scale": jnp.float32(2), "turn": wide})

    monkeypatch.setattr(fresh_module, "PIECE_BYTES", 1)
    rows, expected = fresh(Odd(), KEY), jax.jit(Odd().init)(KEY)
    assert float(rows.first["scale"]) == 2 and rows.first["turn"].together == 8
    np.testing.assert_array_equal(rows.first["turn"], expected.first["turn"])
    np.testing.assert_array_equal(rows.layers["up"][2], expected.layers["up"][2])


OPTIMISED = """
import jax, numpy as np
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.params import fresh as module
module.PIECE_BYTES = 4096
key = jax.random.key(3)
sizes = dict(num_layers=3, model_dim=40, num_heads=4, vocab_size=503)
for stage in (build_stage("gpt", max_positions=16, **sizes), build_stage("llama", **sizes)):
    rows = jax.tree.map(np.asarray, module.fresh(stage, key))
    same = jax.tree.map(np.array_equal, rows, jax.device_get(jax.jit(stage.init)(key)))
    assert all(jax.tree.leaves(same)), same
"""


@pytest.mark.slow
def test_the_bits_are_the_same_in_optimised_machine_code():
    """Multiplications and additions are fused there, which rounds otherwise than these tests do."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", OPTIMISED], check=True, cwd=ROOT, env=environment)
