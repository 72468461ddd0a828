"""Adapters merged into an export, and written for PEFT: names, shapes, and the same numbers."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.config import LoraConfig, UserError
from seq1f1b_jax.formats.safetensors import TensorFiles, read_header
from seq1f1b_jax.inference.reference import reference_loss
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import Origin, export, load_canonical, read_source
from seq1f1b_jax.models.hf.lora.peft import write_adapter
from seq1f1b_jax.models.hf.lora.weights import base_of, merge, source_rows
from tests.models.hf_cases import STAGES, parameters

HEADS = ("query", "key", "value", "output")
CASES = {
    "llama": ("llama", (*HEADS, "gate", "up", "down"), None),
    "qwen2": ("qwen2", ("query", "value"), None),
    "gpt2": ("gpt2", ("query", "value", "output", "up", "down"), None),
    "phi3": ("llama", ("key", "up"), "Phi3ForCausalLM"),
}


def adapted(name, projections):
    return replace(STAGES[name], lora=LoraConfig(rank=3, alpha=6.0, projections=projections))


def tensors_of(path):
    file = TensorFiles(read_header(path))
    return {name: np.asarray(file.read(name), np.float64) for name in file.tensors}


@pytest.mark.parametrize(("name", "projections", "architecture"), CASES.values(), ids=CASES)
def test_base_and_adapter_are_the_merged_export(name, projections, architecture, tmp_path):
    """W + alpha/r B A, as PEFT computes it from the two folders, is what a merged export holds."""
    stage, origin = adapted(name, projections), Origin({}, {}, None, False, None, architecture)
    params = parameters(stage)
    base, merged = tmp_path / "base", tmp_path / "merged"
    export(_bare(params), base_of(stage), base, origin=origin)
    export(params, stage, merged, origin=origin)
    write_adapter(
        params, stage, tmp_path / "adapter", base=str(base), architecture=architecture
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    found = tensors_of(tmp_path / "adapter" / "adapter_model.safetensors")
    plain, whole = (tensors_of(folder / "model.safetensors") for folder in (base, merged))
    assert plain.keys() == whole.keys()
    modules = {key.removesuffix(".lora_A.weight") for key in found if "lora_A" in key}
    for key, weight in plain.items():
        module = f"base_model.model.{key.removesuffix('.weight')}"
        if module not in modules:
            assert np.array_equal(weight, whole[key])
            continue
        modules.remove(module)
        target = next(t for t in config["target_modules"] if module.endswith(f".{t}"))
        first, second = (found.pop(f"{module}.lora_{factor}.weight") for factor in "AB")
        rank = config["rank_pattern"].get(target, config["r"])
        alpha = config["alpha_pattern"].get(target, config["lora_alpha"])
        assert first.shape[0] == second.shape[1] == rank
        delta = alpha / rank * second @ first
        expected = weight + (delta.T if config["fan_in_fan_out"] else delta)
        np.testing.assert_allclose(whole[key], expected, rtol=1e-5, atol=1e-5)
    assert not modules and not found


def _bare(params):
    def without(tree):
        if not isinstance(tree, dict):
            return tree
        return {name: without(part) for name, part in tree.items() if "lora" not in name}

    return params._replace(layers=without(params.layers))


def test_an_adapter_is_as_peft_reads_it(tmp_path):
    stage = adapted("llama", ("query", "down"))
    write_adapter(parameters(stage), stage, tmp_path / "adapter", base="them/model")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config == {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "them/model",
        "r": 3, "lora_alpha": 6, "lora_dropout": 0.0, "target_modules": ["down_proj", "q_proj"],
        "rank_pattern": {}, "alpha_pattern": {}, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layers_to_transform": None,
        "modules_to_save": None, "use_rslora": False, "use_dora": False,
    }  # fmt: skip
    found = tensors_of(tmp_path / "adapter" / "adapter_model.safetensors")
    shapes = {name: tensor.shape for name, tensor in found.items()}
    first = "base_model.model.model.layers.0"
    assert len(shapes) == 5 * 2 * 2
    assert shapes[f"{first}.self_attn.q_proj.lora_A.weight"] == (3, 12)
    assert shapes[f"{first}.self_attn.q_proj.lora_B.weight"] == (24, 3)
    assert shapes[f"{first}.mlp.down_proj.lora_A.weight"] == (3, 20)


def test_query_key_and_value_of_gpt2_have_one_adapter(tmp_path):
    stage = adapted("gpt2", ("query", "value", "output"))
    write_adapter(parameters(stage), stage, tmp_path / "adapter", base=None, dtype="bfloat16")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["attn.c_proj", "c_attn"]
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({"c_attn": 6}, {"c_attn": 12})
    found = tensors_of(tmp_path / "adapter" / "adapter_model.safetensors")
    second = found["base_model.model.transformer.h.4.attn.c_attn.lora_B.weight"]
    query, key, value = np.split(second, 3)
    assert not key.any() and not query[:, 3:].any() and not value[:, :3].any()


def test_merged_weights_compute_the_same():
    stage = adapted("llama", (*HEADS, "gate", "up", "down"))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * leaf), parameters(stage))
    merged = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), merge(params, stage))
    tokens = np.arange(9, dtype=np.int32).reshape(1, 1, 9)
    loss, expected = (
        float(reference_loss(model, weights, tokens, tokens))
        for model, weights in ((base_of(stage), merged), (stage, params))
    )
    assert abs(loss - expected) <= 1e-5 * expected
    plain = parameters(STAGES["llama"])
    assert merge(plain, STAGES["llama"]) is plain


def test_a_source_gets_fresh_adapters(tmp_path):
    stage = adapted("llama", HEADS)
    plain = parameters(STAGES["llama"])
    source = read_source(export(plain, STAGES["llama"], tmp_path / "base"))
    rows = source_rows(source, stage, jax.random.key(5))
    fresh = jax.jit(stage.init)(jax.random.key(5))
    query, made = (tree.layers["attention"]["query"] for tree in (rows, fresh))
    assert np.array_equal(np.asarray(query["lora_a"]), made["lora_a"])
    assert not np.asarray(query["lora_b"]).any()
    loaded = load_canonical(source, STAGES["llama"]).layers["attention"]["query"]["kernel"]
    assert np.array_equal(np.asarray(query["kernel"]), loaded)


def test_what_has_no_adapter_is_refused(tmp_path):
    stage = STAGES["llama"]
    with pytest.raises(UserError, match=r"no adapters \(lora.rank=0\); export it without"):
        write_adapter(parameters(stage), stage, tmp_path / "adapter", base=None)
    (tmp_path / "there").mkdir()
    stage = adapted("llama", HEADS)
    with pytest.raises(UserError, match="there exists; nothing is overwritten"):
        write_adapter(parameters(stage), stage, tmp_path / "there", base=None)
    with pytest.raises(ValueError, match="the MLP of family 'gpt' has no gate; use up and down"):
        build_stage("gpt", preset="tiny", lora=LoraConfig(rank=2, projections=("gate",)))
