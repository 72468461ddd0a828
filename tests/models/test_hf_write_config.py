"""Our fields as a config.json: what is written means the same, and what cannot be is refused."""

import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf.write_config import hf_config
from tests.models.test_hf_config import (
    GPT2,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    OLMOE,
    QWEN2,
    QWEN3_MOE,
    ROPES,
    read,
)

EXPORTED = {
    "llama": (LLAMA, "LlamaForCausalLM"),
    "biases": ({**LLAMA, "attention_bias": True}, "LlamaForCausalLM"),
    "uneven": ({**LLAMA, "hidden_size": 26, "head_dim": 8}, "MistralForCausalLM"),
    "mistral": ({**MISTRAL, "num_key_value_heads": 2}, "MistralForCausalLM"),
    "qwen2": ({**QWEN2, "num_key_value_heads": 2}, "Qwen2ForCausalLM"),
    "qwen2, window": (
        {**QWEN2, "num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 0},
        "Qwen2ForCausalLM"),
    "gpt2": (GPT2, "GPT2LMHeadModel"),
    "experts": (QWEN3_MOE, "Qwen3MoeForCausalLM"),
    "mixtral": (MIXTRAL, "MixtralForCausalLM"),
    "olmoe": (OLMOE, "OlmoeForCausalLM"),
    **{f"rope {name}": ({**LLAMA, "rope_scaling": options}, "LlamaForCausalLM")
       for name, (options, _) in ROPES.items()},
}


@pytest.mark.parametrize("spelling", [4, 5])
@pytest.mark.parametrize("case", EXPORTED)
def test_the_exported_config_means_the_same_in_both_spellings(case, spelling):
    config, architecture = EXPORTED[case]
    description = read(config)
    stage = build_stage(**description.fields)
    written = hf_config(
        stage, dtype="float32", context_length=4096, special_tokens=description.special_tokens
    )
    assert written["architectures"] == [architecture]
    for name in (("rope_parameters",), ("rope_theta", "rope_scaling"))[spelling == 5]:
        written.pop(name, None)
    again = read(written)
    assert build_stage(**again.fields) == stage
    assert again.special_tokens == description.special_tokens
    if "yarn" not in case:
        assert again.context_length == description.context_length


def test_yarns_exported_lengths_have_its_factor():
    stage = build_stage(**{**read(LLAMA).fields, "rope": ROPES["yarn"][1]})
    written = hf_config(stage, dtype="float32", context_length=100_000, special_tokens={})
    assert written["max_position_embeddings"] == 4096
    assert written["bos_token_id"] is None and written["eos_token_id"] is None


SIZES = {"num_layers": 2, "model_dim": 24, "num_heads": 4, "vocab_size": 10, "max_positions": 16}
UNKNOWN = {
    "output bias and a window": (
        "llama", {"output_bias": True, "window": 3}, "qkv_bias=False, output_bias=True"),
    "biases and a window": (
        "llama", {"qkv_bias": True, "output_bias": True, "window": 3}, "window=3 are together"),
    "grouped gpt": ("gpt", {"num_kv_heads": 2}, "num_kv_heads=2.*GPT-2"),
    "rotary gpt": ("gpt", {"positions": "rotary"}, "positions='rotary' .*gpt.* cannot be exported"),
    "wide gpt": ("gpt", {"head_dim": 8}, "head_dim=8.*GPT-2"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_model_that_transformers_does_not_have(case):
    family, changes, message = UNKNOWN[case]
    stage = build_stage(family, **{**SIZES, **changes})
    with pytest.raises(UserError, match=message):
        hf_config(stage, dtype="float32", context_length=None, special_tokens={})
