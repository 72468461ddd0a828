"""Against `transformers` itself, on random tiny models of every family (extra `hf`)."""

import json
import warnings

import numpy as np
import pytest

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.formats.safetensors import open_checkpoint
from seq1f1b_jax.formats.write_safetensors import write_checkpoint
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export, load_canonical, read_source
from seq1f1b_jax.models.rope import inverse_frequencies

REASON = "needs the extra `hf`: pip install 'seq1f1b-jax[hf]'"
with warnings.catch_warnings():
    # Importing it makes torch and its friends complain about themselves.
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=REASON)
    transformers = pytest.importorskip("transformers", reason=REASON)

from benchmarks.families import (  # noqa: E402 - it needs what may be missing
    CASES,
    compare,
    difference,
    our_logits,
    random_model,
    spelled,
    tensors,
    torch_logits,
)

MAJOR = int(transformers.__version__.split(".")[0])
TOLERANCE = 1e-5
"""Of the largest logit: float32 sums in another order, over three layers."""
GRADIENT_TOLERANCE = 5e-5
"""Likewise of the largest entry of a gradient, through as many layers back."""

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours


@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_and_export_are_those_of_transformers(case):
    row = compare(case)
    assert row["logits"] <= TOLERANCE and row["gradient"] <= GRADIENT_TOLERANCE, row
    assert row["export"], row


@pytest.mark.parametrize("case", ["llama, tied", "qwen2", "gpt2"])
def test_bfloat16_and_shards_survive_import_and_export(case, tmp_path):
    model = random_model(case).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    source = read_source(tmp_path / "theirs")
    stage = build_stage(**source.fields)
    params = load_canonical(source, stage)
    export(params, stage, tmp_path / "ours", dtype="bfloat16", max_shard_bytes=30_000)
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    assert tensors(tmp_path / "ours") == tensors(tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert again.dtype == torch.bfloat16
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("case", ["llama, tied", "gpt2"])
def test_a_table_under_the_heads_name_is_what_transformers_loads(case, tmp_path):
    model = random_model(case)
    expected = torch_logits(model)
    model.save_pretrained(tmp_path / "theirs")
    files = open_checkpoint(tmp_path / "theirs")
    values = {name: files.read(name) for name in files.tensors}
    [table] = [name for name in values if name.endswith(("embed_tokens.weight", "wte.weight"))]
    values["lm_head.weight"] = np.array(values.pop(table))
    (tmp_path / "theirs" / "model.safetensors").unlink()
    shapes = {name: value.shape for name, value in values.items()}
    write_checkpoint(tmp_path / "theirs", shapes, values.__getitem__, dtype="F32")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", attn_implementation="eager", dtype=torch.float32)
    if MAJOR >= 5:  # 4 leaves the table unset, on the device meta
        assert np.array_equal(torch_logits(again.eval()), expected)
    source = read_source(tmp_path / "theirs")
    stage = build_stage(**source.fields)
    assert difference(our_logits(stage, load_canonical(source, stage)), expected) <= TOLERANCE


def test_the_second_names_of_gpt2s_settings_are_those_of_transformers(tmp_path):
    model = random_model("gpt2")
    model.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    second = {"n_layer": "num_hidden_layers", "n_embd": "hidden_size",
              "n_head": "num_attention_heads", "n_positions": "max_position_embeddings"}
    path.write_text(json.dumps({second.get(name, name): v for name, v in config.items()}))
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", attn_implementation="eager", dtype=torch.float32)
    expected = torch_logits(again.eval())
    assert np.array_equal(expected, torch_logits(model))
    source = read_source(tmp_path / "theirs")
    stage = build_stage(**source.fields)
    assert difference(our_logits(stage, load_canonical(source, stage)), expected) <= TOLERANCE


def test_a_stretch_by_a_larger_base_is_exported_as_that_base(tmp_path):
    model = random_model("llama")
    model.save_pretrained(tmp_path / "theirs")
    source = read_source(tmp_path / "theirs")
    stage = build_stage(**{**source.fields, "rope": RopeConfig("ntk", factor=3.0)})
    params = load_canonical(source, stage)
    export(params, stage, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    expected = our_logits(stage, params)
    assert difference(torch_logits(again), expected) <= TOLERANCE
    assert difference(torch_logits(model), expected) > 1e-2


STRETCHES = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    "yarn with options": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
        "beta_fast": 20.0, "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.7,
    },
    "yarn with a scale": {
        "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 2048,
        "attention_factor": 1.5,
    },
}


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("name", STRETCHES)
def test_frequencies_are_those_of_transformers(name, theta):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from seq1f1b_jax.models.hf.rope import read_rope
    from seq1f1b_jax.models.hf.settings import CheckedValues

    rope = {**STRETCHES[name], "rope_theta": theta}
    length = int(rope["factor"] * rope.get("original_max_position_embeddings", 512))
    sizes = {"hidden_size": 512, "num_attention_heads": 4, "max_position_embeddings": length}
    config = transformers.LlamaConfig(
        **spelled({**sizes, "rope_parameters": rope}, transformers.__version__)
    )
    expected, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    base, ours = read_rope(CheckedValues({"rope_parameters": rope}, "config.json"))
    frequencies, our_scale = inverse_frequencies(128, theta=base, rope=ours)
    np.testing.assert_allclose(frequencies, expected.numpy(), rtol=2e-6)
    assert our_scale == pytest.approx(scale, rel=1e-12)
