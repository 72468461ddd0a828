"""Our fields as a config.json that transformers 4 and 5 read alike."""

from collections.abc import Mapping
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.gpt import Gpt
from seq1f1b_jax.models.hf.config import MODEL_TYPES
from seq1f1b_jax.models.hf.rope import write_rope
from seq1f1b_jax.models.llama import Llama


def export_table(stage: Decoder) -> str:
    """Key in `models.hf.tables.TABLES` of the checkpoint that a model is written as."""
    return "gpt2" if stage.family == "gpt" else "llama"


def hf_config(
    stage: Decoder,
    *,
    dtype: str,
    context_length: int | None,
    special_tokens: Mapping[str, int | list[int]],
) -> dict[str, Any]:
    """The content of config.json.

    Args:
      stage: the model.
      dtype: of its tensors.
      context_length: tokens of the longest sequence; None: follows from the architecture or the
        stretch of the rotary frequencies.
      special_tokens: ids by name (`bos`, `eos`, `pad`).

    Raises:
      UserError: transformers has no architecture that computes what our model computes.
    """
    if isinstance(stage, Gpt):
        name, sizes = "GPT2LMHeadModel", _gpt2(stage)
    else:
        assert isinstance(stage, Llama), type(stage)
        name = _llama_kind(stage)
        sizes = _llama(stage, name, context_length)
    # null and not absent: transformers' defaults are ids of another tokenizer.
    ids = {f"{kind}_token_id": special_tokens.get(kind) for kind in ("bos", "eos", "pad")}
    return {
        "architectures": [name],
        "model_type": MODEL_TYPES[name],
        "torch_dtype": dtype,
        "dtype": dtype,
        "vocab_size": stage.vocab_size,
        "tie_word_embeddings": stage.tied,
        **ids,
        **sizes,
    }


def _llama_kind(stage: Llama) -> str:
    if stage.qkv_bias and not stage.output_bias:
        return "Qwen2ForCausalLM"
    if stage.qkv_bias != stage.output_bias or (stage.qkv_bias and stage.window is not None):
        raise UserError(
            f"qkv_bias={stage.qkv_bias}, output_bias={stage.output_bias} and window={stage.window} "
            "are together no architecture of transformers: Llama has both biases or none and no "
            "window, Mistral a window and no biases, Qwen2 a window and qkv_bias"
        )
    # Llama refuses a width that its heads do not divide; Mistral without a window is the same.
    uneven = stage.model_dim % stage.num_heads and not stage.qkv_bias
    return "MistralForCausalLM" if stage.window is not None or uneven else "LlamaForCausalLM"


def _check_gpt2(stage: Gpt) -> None:
    if stage.rotary:
        raise UserError(
            "positions='rotary' with family='gpt' cannot be exported: GPT-2 in transformers has "
            "learned positions; train with positions='learned', or family='llama'"
        )
    wide = stage.num_heads * stage.head_dim
    if stage.num_kv_heads != stage.num_heads or wide != stage.model_dim:
        raise UserError(
            f"num_heads={stage.num_heads}, num_kv_heads={stage.num_kv_heads}, head_dim="
            f"{stage.head_dim}, model_dim={stage.model_dim}: GPT-2 in transformers has as many "
            "key/value heads as heads, together as wide as the model: train one of that shape"
        )


def _gpt2(stage: Gpt) -> dict[str, Any]:
    _check_gpt2(stage)
    return {
        "n_layer": stage.num_layers,
        "n_embd": stage.model_dim,
        "n_head": stage.num_heads,
        "n_inner": stage.mlp_dim,
        "n_positions": stage.max_positions,
        "layer_norm_epsilon": stage.norm_eps,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _llama(stage: Llama, name: str, context_length: int | None) -> dict[str, Any]:
    length = _stretched_length(stage) or context_length
    return {
        "num_hidden_layers": stage.num_layers,
        "hidden_size": stage.model_dim,
        "num_attention_heads": stage.num_heads,
        "num_key_value_heads": stage.num_kv_heads,
        "head_dim": stage.head_dim,
        "intermediate_size": stage.mlp_dim,
        "hidden_act": "silu",
        "rms_norm_eps": stage.norm_eps,
        **({} if length is None else {"max_position_embeddings": length}),
        **write_rope(stage.rope_theta, stage.rope, head_dim=stage.head_dim),
        **_OPTIONS[name](stage),
    }


def _stretched_length(stage: Llama) -> int | None:
    # Some versions of transformers take yarn's factor from the ratio of these two lengths.
    trained = stage.rope.original_max_positions
    if stage.rope.type != "yarn" or trained is None:
        return None
    return round(stage.rope.factor * trained)


_OPTIONS = {
    "LlamaForCausalLM": lambda stage: {"attention_bias": stage.qkv_bias, "mlp_bias": False},
    "MistralForCausalLM": lambda stage: {"sliding_window": stage.window},
    "Qwen2ForCausalLM": lambda stage: {
        "use_sliding_window": stage.window is not None,
        "sliding_window": stage.window,
        "max_window_layers": 0 if stage.window is not None else stage.num_layers,
    },
}
