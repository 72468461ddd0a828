"""Small models of every architecture of transformers that we read, by their settings."""

from collections.abc import Mapping
from typing import Any

LLAMA = {
    "vocab_size": 67, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
    "original_max_position_embeddings": 16, "beta_fast": 2.0, "beta_slow": 0.25,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
GPT2 = {
    "vocab_size": 67, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 40,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}
WINDOW = 5
PAD = 66
"""Not among the tokens: torch gives its row no gradient."""
DEEP = LLAMA | {"num_hidden_layers": 4, "sliding_window": WINDOW, "pad_token_id": PAD}
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA = DEEP | {"head_dim": 12, "query_pre_attn_scalar": 10}
LOCAL = {"rope_type": "default", "rope_theta": 300.0}
LONGROPE = LLAMA | {
    "hidden_size": 64, "pad_token_id": PAD, "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.2, 1.4, 1.6, 2.0],
        "long_factor": [1.5, 2.0, 3.0, 4.0, 6.0, 8.0],
    },
}
MOE = {**LLAMA, "num_experts_per_tok": 3}
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", LLAMA),
    "llama, all heads, wide": ("llama", {**LLAMA, "num_key_value_heads": 4, "head_dim": 20}),
    "llama, tied": ("llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama, biases": ("llama", {**LLAMA, "attention_bias": True}),
    "llama, biases of the mlp": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, rope llama3": ("llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "llama, rope yarn": ("llama", {**LLAMA, "rope_parameters": YARN}),
    "llama, rope linear": ("llama", {**LLAMA, "rope_parameters": LINEAR}),
    "llama, rope dynamic": (
        "llama",
        {**LLAMA, "max_position_embeddings": 16,
         "rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
    ),
    "mistral": ("mistral", {**LLAMA, "sliding_window": WINDOW}),
    "mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "ministral": (
        "ministral", {**DEEP, "head_dim": 12, "layer_types": [FULL, SLIDING, SLIDING, SLIDING]}
    ),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, tied": ("qwen2", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2, window": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0},
    ),
    "qwen2, window in some layers": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 20}),
    "qwen3, tied": ("qwen3", {**LLAMA, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {**DEEP, "num_hidden_layers": 5, "sliding_window": None}),
    "gemma": ("gemma", {**LLAMA, "head_dim": 12, "pad_token_id": PAD}),
    "gemma2": (
        "gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
    ),
    "gemma3": (
        "gemma3_text",
        {**GEMMA, "rope_parameters": {FULL: LINEAR, SLIDING: LOCAL}, "sliding_window_pattern": 3},
    ),
    "gemma3, untied": ("gemma3_text", {**GEMMA, "tie_word_embeddings": False}),
    "olmo2": ("olmo2", {**LLAMA, "pad_token_id": PAD}),
    "olmo3": ("olmo3", {**DEEP, "layer_types": [SLIDING, SLIDING, FULL, SLIDING]}),
    "olmo3, yarn": (
        "olmo3",
        {**DEEP, "rope_parameters": {FULL: YARN, SLIDING: {**LOCAL, "rope_theta": 500.0}}},
    ),
    "phi3": ("phi3", {**LLAMA, "pad_token_id": PAD}),
    "phi3, part of a head": (
        "phi3",
        {**LLAMA, "hidden_size": 64, "sliding_window": WINDOW, "pad_token_id": PAD,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                             "partial_rotary_factor": 0.75}},
    ),
    "phi3, longrope, short": ("phi3", LONGROPE | {"max_position_embeddings": 256}),
    "phi3, longrope, long": (
        "phi3", LONGROPE | {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
    ),
    "granite": (
        "granite",
        {**LLAMA, "embedding_multiplier": 3.0, "residual_multiplier": 0.4,
         "attention_multiplier": 0.2, "logits_scaling": 2.0},
    ),
    "seed_oss": ("seed_oss", {**LLAMA, "head_dim": 20, "pad_token_id": PAD}),
    "cwm": (
        "cwm",
        {**DEEP, "head_dim": 12, "rope_parameters": LLAMA3, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "exaone4": ("exaone4", DEEP),
    "exaone4, no window": (
        "exaone4", {**LLAMA, "sliding_window": None, "layer_types": [FULL] * 3}
    ),
    "qwen3_moe": (
        "qwen3_moe", {**MOE, "num_experts": 5, "moe_intermediate_size": 24, "norm_topk_prob": True}
    ),
    "qwen3_moe, window": (
        "qwen3_moe",
        {**MOE, "num_experts": 5, "moe_intermediate_size": 24, "use_sliding_window": True,
         "sliding_window": WINDOW, "head_dim": 20},
    ),
    "mixtral": ("mixtral", {**MOE, "num_local_experts": 4}),
    "mixtral, window": ("mixtral", {**MOE, "num_local_experts": 4, "sliding_window": WINDOW}),
    "olmoe": ("olmoe", {**MOE, "num_experts": 6, "pad_token_id": PAD}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied": ("gpt2", {**GPT2, "tie_word_embeddings": False}),
}
"""Name -> `model_type` and settings. The part of a name before the comma is the family."""
