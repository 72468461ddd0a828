"""config.json to our fields: both spellings, every family, and what is refused."""

import pytest

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf.config import read_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32,
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": [2, 3],
}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral",
           "sliding_window": 7}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
         "sliding_window": 7}
QWEN3_MOE = {
    **LLAMA, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 6,
    "moe_intermediate_size": 8, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "num_key_value_heads": 2,
}
MIXTRAL = {
    **LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
    "num_key_value_heads": 2, "rope_theta": 1e4,
}
OLMOE = {**LLAMA, "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe"}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 2, "n_embd": 24,
        "n_head": 4, "n_positions": 50, "vocab_size": 32}
FIELDS = {
    "family": "llama", "num_layers": 3, "model_dim": 24, "num_heads": 4, "num_kv_heads": 4,
    "head_dim": 6, "mlp_dim": 40, "vocab_size": 32, "tied": False, "norm_eps": 1e-5,
    "rope_theta": 10_000.0, "rope": RopeConfig(), "window": None, "qkv_bias": False,
    "output_bias": False,
}


def read(config):
    return read_config(config, where="config.json")


FIELD_CASES = {
    "llama": (LLAMA, {}),
    "llama by its type": ({**LLAMA, "architectures": None}, {}),
    "grouped": ({**LLAMA, "num_key_value_heads": 2}, {"num_kv_heads": 2}),
    "null is absent": ({**LLAMA, "num_key_value_heads": None, "head_dim": None}, {}),
    "wide heads": ({**LLAMA, "head_dim": 10}, {"head_dim": 10}),
    "tied": ({**LLAMA, "tie_word_embeddings": True}, {"tied": True}),
    "biases": ({**LLAMA, "attention_bias": True}, {"qkv_bias": True, "output_bias": True}),
    "mistral": ({**MISTRAL, "num_key_value_heads": 2}, {"window": 7, "num_kv_heads": 2}),
    "mistral's defaults": (
        {k: v for k, v in MISTRAL.items() if k != "sliding_window"}
        | {"num_attention_heads": 8, "head_dim": 4},
        {"window": 4096, "num_kv_heads": 8, "num_heads": 8, "head_dim": 4}),
    "mistral without a window": (
        {**MISTRAL, "sliding_window": None, "num_key_value_heads": None}, {}),
    "qwen2": ({**QWEN2, "num_key_value_heads": 4}, {"qkv_bias": True}),
    "qwen2, all layers slide": (
        {**QWEN2, "num_key_value_heads": 4, "use_sliding_window": True, "max_window_layers": 0},
        {"qkv_bias": True, "window": 7}),
    "qwen2, no layer slides": (
        {**QWEN2, "num_key_value_heads": 4, "use_sliding_window": True, "max_window_layers": 3},
        {"qkv_bias": True}),
    "qwen2, some layers slide": (
        {**QWEN2, "num_key_value_heads": 4, "use_sliding_window": True, "max_window_layers": 2},
        {"qkv_bias": True, "window": 7, "layer_pattern": ["full", "full", "window"]}),
    "qwen2, layers by name": (
        {**QWEN2, "num_key_value_heads": 4, "use_sliding_window": True,
         "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        {"qkv_bias": True, "window": 7, "layer_pattern": ["full", "window"]}),
    "biases of the mlp": ({**LLAMA, "mlp_bias": True}, {"mlp_bias": True}),
    "experts": (
        QWEN3_MOE,
        {"num_experts": 6, "experts_per_token": 2, "mlp_dim": 8, "qk_norm": "head",
         "num_kv_heads": 2}),
    "experts, as transformers 5 names them": (
        {k: v for k, v in QWEN3_MOE.items() if k not in ("num_experts", "norm_topk_prob")}
        | {"num_local_experts": 5},
        {"num_experts": 5, "experts_per_token": 2, "mlp_dim": 8, "qk_norm": "head",
         "num_kv_heads": 2, "normalize_experts": False}),
    "mixtral's defaults": (
        MIXTRAL, {"num_experts": 8, "experts_per_token": 2, "num_kv_heads": 2}),
    "olmoe's defaults": (
        OLMOE,
        {"num_experts": 64, "experts_per_token": 8, "qk_norm": "width",
         "normalize_experts": False}),
}


@pytest.mark.parametrize("case", FIELD_CASES)
def test_fields(case):
    config, changes = FIELD_CASES[case]
    description = read(config)
    assert build_stage(**description.fields) == build_stage(**{**FIELDS, **changes})
    assert description.context_length == 4096
    assert description.special_tokens == {"bos": 1, "eos": [2, 3]}


def test_fields_of_gpt2():
    description = read(GPT2)
    assert description.fields == {
        "family": "gpt", "num_layers": 2, "model_dim": 24, "num_heads": 4, "num_kv_heads": 4,
        "head_dim": 6, "mlp_dim": 96, "vocab_size": 32, "positions": "learned",
        "max_positions": 50, "tied": True,
        "norm_eps": 1e-5,
    }
    assert description.context_length == 50
    assert not read({**GPT2, "tie_word_embeddings": None}).fields["tied"]


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 512}
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}
# Name -> (type and options, what they mean).
ROPES = {
    "none": ({"rope_type": "default"}, RopeConfig()),
    "linear": ({"rope_type": "linear", "factor": 2.0}, RopeConfig("linear", factor=2.0)),
    "llama3": (
        {"rope_type": "llama3", **LLAMA3},
        RopeConfig("llama3", factor=8.0, original_max_positions=512)),
    "yarn": (
        {"rope_type": "yarn", **YARN}, RopeConfig("yarn", factor=4.0, original_max_positions=1024)),
    "yarn's options": (
        {"rope_type": "yarn", **YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.2},
        RopeConfig("yarn", factor=4.0, original_max_positions=1024, beta_fast=16.0, beta_slow=2.0,
                   attention_factor=1.2)),
    "yarn's length is the config's": (
        {"rope_type": "yarn", "factor": 4.0},
        RopeConfig("yarn", factor=4.0, original_max_positions=4096)),
    "yarn's factor is the ratio": (
        {"rope_type": "yarn", "original_max_position_embeddings": 512},
        RopeConfig("yarn", factor=8.0, original_max_positions=512)),
    "yarn's scale as a ratio": (
        {"rope_type": "yarn", **YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        RopeConfig("yarn", factor=4.0, original_max_positions=1024,
                   attention_factor=1.0648216253)),
}


@pytest.mark.parametrize("case", ROPES)
def test_both_spellings_of_a_stretch_mean_the_same(case):
    options, expected = ROPES[case]
    spellings = {
        "4": {"rope_theta": 5e5, "rope_scaling": options},
        "4, older": {
            "rope_theta": 5e5,
            "rope_scaling": {"type" if k == "rope_type" else k: v for k, v in options.items()},
        },
        "5": {"rope_parameters": {"rope_theta": 5e5, **options}},
    }
    for spelling, entries in spellings.items():
        fields = read({**LLAMA, **entries}).fields
        assert fields["rope_theta"] == 5e5, spelling
        scale = fields["rope"].attention_factor
        if expected.attention_factor is not None:
            assert scale == pytest.approx(expected.attention_factor)
        assert {**vars(fields["rope"]), "attention_factor": 0} == {
            **vars(expected), "attention_factor": 0}, spelling


LINEAR2, YARN4 = {"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", **YARN}
AGREED = {
    "both spellings": {
        "rope_scaling": LINEAR2, "rope_parameters": {**LINEAR2, "rope_theta": 1e4}},
    "an older name in one": {
        "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": LINEAR2},
    "both names": {"rope_scaling": {"type": "linear", **LINEAR2}},
    "theta twice": {"rope_theta": 1e4, "rope_parameters": {**LINEAR2, "rope_theta": 1e4}},
    "null beside it": {"rope_scaling": None, "rope_parameters": LINEAR2},
}


@pytest.mark.parametrize("case", AGREED)
def test_what_is_said_twice_and_alike_is_accepted(case):
    assert read({**LLAMA, **AGREED[case]}).fields["rope"] == RopeConfig("linear", factor=2.0)


def test_gpt2_takes_both_names_of_a_setting():
    second = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 4,
              "max_position_embeddings": 50}
    config = {"architectures": ["GPT2LMHeadModel"], "vocab_size": 32, **second}
    assert read(config).fields == read(GPT2).fields == read({**GPT2, **second}).fields


NESTED = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}
REFUSED = {
    "architecture": ({**LLAMA, "architectures": ["PhiForCausalLM"]}, "'PhiForCausalLM'.*use a"),
    "no architecture": ({"hidden_size": 3}, r"architectures=\[\], model_type=None"),
    "quantised": ({**LLAMA, "quantization_config": {"bits": 4}}, "quantization_config is set"),
    "activation": ({**LLAMA, "hidden_act": "gelu"}, "hidden_act='gelu' .*silu"),
    "several at once": (
        {**GPT2, "activation_function": "relu", "scale_attn_weights": False},
        "activation_function='relu' .*; scale_attn_weights=False"),
    "a type of rope": (
        {**LLAMA, "rope_scaling": {"type": "proportional", "factor": 2.0}},
        "'proportional' is not supported .default, linear"),
    "longrope without its factors": (
        {**LLAMA, "rope_scaling": {"rope_type": "longrope", "long_factor": [1.0, 2.0, 3.0]}},
        "short_factor is missing"),
    "part of a head": ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
    "part of a head, 5": (
        {**LLAMA, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        "partial_rotary_factor=0.25"),
    "per layer": ({**LLAMA, "rope_parameters": NESTED}, "full_attention, sliding_atten"),
    "half pairs": (
        {**LLAMA, "rope_scaling": {"rope_type": "yarn", **YARN, "truncate": False}},
        "truncate=False"),
    "no factor": ({**LLAMA, "rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
    "a kind of layers": (
        {**QWEN2, "use_sliding_window": True, "layer_types": ["chunked_attention"] * 3},
        "layer_types holds chunked_attention"),
    "too few layers": (
        {**QWEN2, "use_sliding_window": True, "layer_types": ["full_attention"] * 2},
        "layer_types names 2 layers of 3"),
    "mistral's layers by name": (
        {**MISTRAL, "layer_types": ["full_attention"] * 3}, "layer_types holds full_attention"),
    "gelu": ({**GPT2, "activation_function": "relu"}, "activation_function='relu'"),
    "unscaled": ({**GPT2, "scale_attn_weights": False}, "scale_attn_weights=False"),
    "unscaled, null": ({**GPT2, "scale_attn_weights": None}, "scale_attn_weights=None"),
    "missing": ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, "hidden_size is missing"),
    "text for a number": ({**LLAMA, "hidden_size": "24"}, "hidden_size='24' is not an integer"),
    "zero": ({**LLAMA, "num_attention_heads": 0}, "num_attention_heads=0 is not an integer of 1"),
    "infinite": ({**LLAMA, "rope_theta": float("inf")}, "rope_theta=inf is not a positive"),
    "no float": ({**LLAMA, "rms_norm_eps": 10**400}, "rms_norm_eps=10000.* is not a positive"),
    "no flag": ({**LLAMA, "tie_word_embeddings": "no"}, "'no' is neither true nor false"),
    "no list": ({**LLAMA, "layer_types": 3}, "layer_types=3 is not a list of strings"),
    "no object": ({**LLAMA, "rope_scaling": 3}, "rope_scaling=3 is not an object"),
    "two models": (
        {**LLAMA, "model_type": "mistral"},
        r"architectures=\['LlamaForCausalLM'\] and model_type='mistral' name two models"),
    "a type that is none of ours": (
        {**LLAMA, "model_type": "gemma"}, "model_type='gemma' name two .* type is 'llama'"),
    "two stretches": (
        {**LLAMA, "rope_scaling": LINEAR2, "rope_parameters": {**LINEAR2, "factor": 4.0}},
        "rope_parameters={'rope_type': 'linear', 'factor': 4.0} and rope_scaling={'rope_type': "
        "'linear', 'factor': 2.0} stretch differently"),
    "a stretch and none": (
        {**LLAMA, "rope_scaling": LINEAR2, "rope_parameters": {"rope_type": "default"}},
        "rope_parameters=.*default.* and rope_scaling=.*linear.* stretch differently"),
    "two bases": (
        {**LLAMA, "rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
        "rope_parameters: rope_theta=500000, and rope_theta=10000 is set outside"),
    "two lengths": (
        {**LLAMA, "rope_scaling": YARN4, "original_max_position_embeddings": 512},
        "original_max_position_embeddings=1024, and original_max_position_embeddings=512 is set"),
    "two types": (
        {**LLAMA, "rope_scaling": {**LINEAR2, "type": "yarn"}},
        "rope_type='linear' and type='yarn' are one setting"),
    "a factor of no type": (
        {**LLAMA, "rope_scaling": {"factor": 2.0}}, "factor without a rope_type; say which"),
    "an option of another type": (
        {**LLAMA, "rope_scaling": {**LINEAR2, "beta_fast": 3}},
        "beta_fast=3 has no meaning for rope type 'linear' .which has factor"),
    "a factor of the default": (
        {**LLAMA, "rope_parameters": {"rope_type": "default", "factor": 2.0}},
        "factor=2.0 has no meaning for rope type 'default' .which has no options"),
    "experts in some layers": (
        {**QWEN3_MOE, "decoder_sparse_step": 2}, "decoder_sparse_step=2 .*all layers have experts"),
    "a layer without experts": ({**QWEN3_MOE, "mlp_only_layers": [1]}, "mlp_only_layers=.1."),
    "noise": ({**MIXTRAL, "router_jitter_noise": 0.1}, "router_jitter_noise=0.1 .*set it to 0"),
    "clipped": ({**OLMOE, "clip_qkv": 8.0}, "clip_qkv=8.0"),
    "compressed": ({**LLAMA, "compression_config": {"format": "x"}}, "compression_config is set"),
    "pruned": ({**GPT2, "pruned_heads": {"0": [1]}}, "pruned_heads={'0': .1.}; all layers"),
    "two numbers of heads": (
        {**GPT2, "num_attention_heads": 6}, "n_head=4 and num_attention_heads=6 are one setting"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_we_cannot_be_is_refused_in_one_line(case):
    config, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        read(config)
    assert "\n" not in str(error.value) and "config.json" in str(error.value)
