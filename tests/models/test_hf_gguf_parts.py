"""GGUF files of Llama 3.1's rotary factors, and models in several files."""

import jax
import numpy as np
import pytest

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import load_canonical, read_source
from seq1f1b_jax.models.rope import inverse_frequencies
from tests.models.test_hf_gguf import (
    HEAD_DIM,
    SIZES,
    add_sizes,
    finish,
    parameters,
    tensors,
    write,
)

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install gguf")


def test_factors_of_llama_3_are_its_rule(tmp_path):
    rope = RopeConfig("llama3", factor=32.0, original_max_positions=8192)
    stage = build_stage("llama", **SIZES, rope=rope)
    plain, _ = inverse_frequencies(HEAD_DIM, theta=5e5, rope=RopeConfig())
    factors = plain / inverse_frequencies(HEAD_DIM, theta=5e5, rope=rope)[0]
    extra = [("rope_freqs.weight", factors.astype(np.float32))]
    source = read_source(write(tmp_path / "m.gguf", stage, parameters(stage), extra=extra))
    assert build_stage(**source.fields) == stage
    load_canonical(source, stage)  # the factors are no weights of it


def shards(folder, *, count=3):
    """A model in several files, as llama.cpp splits it; the first, and its parameters."""
    stage = build_stage("llama", **SIZES)
    params = parameters(stage)
    everything = list(tensors(stage, params, "llama"))
    for number in range(count):
        path = folder / f"m-{number + 1:05d}-of-{count:05d}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(everything))
        if number == 0:
            add_sizes(writer, stage)
        for name, value in everything[number::count]:
            writer.add_tensor(name, np.ascontiguousarray(value))
        finish(writer)
    return folder / f"m-00001-of-{count:05d}.gguf", stage, params


def test_several_files_are_one_model(tmp_path):
    first, stage, params = shards(tmp_path)
    loaded = load_canonical(read_source(first), stage)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    with pytest.raises(UserError, match="is part 2 of 3; give the first one, .*00001-of-00003"):
        read_source(first.with_name("m-00002-of-00003.gguf"))
    first.with_name("m-00003-of-00003.gguf").unlink()
    with pytest.raises(UserError, match="one of 3 files, and .*00003-of-00003.gguf is missing"):
        read_source(first)
