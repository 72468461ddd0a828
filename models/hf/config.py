"""A checkpoint's config.json as fields of our models: architecture, sizes, what is refused."""

from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.hf.rope import read_rope
from seq1f1b_jax.models.hf.settings import CheckedValues, short


@dataclass(frozen=True)
class Description:
    """The model of a checkpoint, as its header describes it.

    Attributes:
      architecture: its name there.
      table: key of `models.hf.tables.TABLES`.
      fields: keyword arguments of `build_stage`.
      context_length: tokens of the longest sequence that it was trained for.
      special_tokens: ids by name (`bos`, `eos`, `pad`), or lists of ids, as in the file.
      tokenizer_class: transformers' class for its tokenizer, where it names one.
    """

    architecture: str
    table: str
    fields: dict[str, Any]
    context_length: int | None
    special_tokens: dict[str, int | list[int]]
    tokenizer_class: str | None = None


def read_config(config: dict[str, Any], *, where: str) -> Description:
    """Read a config.json.

    Args:
      config: its content, as transformers 4 or 5 writes it.
      where: the file, named in messages.

    Raises:
      UserError: an architecture or a setting that our models do not have, with reason and cure.
    """
    settings = CheckedValues(config, where)
    name = _architecture(settings)
    for quantized in ("quantization_config", "compression_config"):
        if settings.get(quantized):
            raise UserError(
                f"{where}: {quantized} is set; training needs the weights themselves: use the "
                "checkpoint that was quantized"
            )
    if settings.get("pruned_heads"):
        raise UserError(
            f"{where}: pruned_heads={settings.get('pruned_heads')}; all layers have all heads: use "
            "the checkpoint that was pruned"
        )
    table, fields, length = _READERS[name](settings)
    named = settings.get("tokenizer_class")
    return Description(
        name, table, fields, length, read_special_tokens(settings),
        named if isinstance(named, str) else None,
    )


def _architecture(settings: CheckedValues) -> str:
    names, kind = settings.texts("architectures"), settings.get("model_type")
    meant = next((name for name, its in MODEL_TYPES.items() if its == kind), "")
    name = names[0] if names else meant
    if len(names) > 1 or name not in _READERS:
        raise UserError(
            f"{settings.where}: architectures={names}, model_type={kind!r} "
            f"is not supported; use a checkpoint of {', '.join(_READERS)}"
        )
    if kind is not None and name != meant:
        raise UserError(
            f"{settings.where}: architectures={names} and model_type={kind!r} name two models "
            f"(the architecture's type is {MODEL_TYPES[name]!r}); correct the one that is wrong"
        )
    return name


def read_special_tokens(settings: CheckedValues) -> dict[str, int | list[int]]:
    """Ids by name (`bos`, `eos`, `pad`) from a config.json or a generation_config.json.

    Raises:
      UserError: one that is neither an id nor a list of them.
    """
    found = {name: settings.get(f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, value in found.items():
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(token) is int for token in ids):
            raise UserError(
                f"{settings.where}: {name}_token_id={short(value)} is neither an id nor a list of "
                "ids; correct it"
            )
    return {name: value for name, value in found.items() if value is not None}


def _llama_fields(settings: CheckedValues, *, num_kv_heads: int | None) -> dict[str, Any]:
    settings.refuse({
        "hidden_act": (("silu", "swish"), "the MLP's activation is silu: use another checkpoint"),
        "mlp_bias": ((False, None), "the MLP has no biases: use another checkpoint"),
    })
    num_heads = settings.count("num_attention_heads")
    model_dim = settings.count("hidden_size")
    theta, rope = read_rope(settings)
    if num_kv_heads is None or "num_key_value_heads" in settings:
        num_kv_heads = num_heads
    return {
        "family": "llama",
        "num_layers": settings.count("num_hidden_layers"),
        "model_dim": model_dim,
        "num_heads": num_heads,
        "num_kv_heads": settings.count("num_key_value_heads", num_kv_heads),
        "head_dim": settings.count("head_dim", max(model_dim // num_heads, 1)),
        "mlp_dim": settings.count("intermediate_size"),
        "vocab_size": settings.count("vocab_size"),
        "tied": settings.flag("tie_word_embeddings", False),
        "norm_eps": settings.number("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope": rope,
        "window": None,
        "qkv_bias": False,
        "output_bias": False,
    }


def _llama(settings: CheckedValues):
    _check_layer_types(settings, "full_attention")
    bias = settings.flag("attention_bias", False)
    fields = _llama_fields(settings, num_kv_heads=None)
    fields |= {"qkv_bias": bias, "output_bias": bias}
    return "llama", fields, settings.count("max_position_embeddings", 2048)


def _mistral(settings: CheckedValues):
    # An absent setting has transformers' default; null means no window.
    window = settings.count("sliding_window", 4096)
    if settings.get("sliding_window", 4096) is None:
        window = None
    _check_layer_types(settings, "full_attention" if window is None else "sliding_attention")
    fields = _llama_fields(settings, num_kv_heads=8) | {"window": window}
    return "llama", fields, settings.count("max_position_embeddings", 131_072)


def _qwen2(settings: CheckedValues):
    fields = _llama_fields(settings, num_kv_heads=32)
    fields |= {"qkv_bias": True, "window": _qwen2_window(settings, fields["num_layers"])}
    return "llama", fields, settings.count("max_position_embeddings", 32_768)


def _qwen2_window(settings: CheckedValues, num_layers: int) -> int | None:
    if not settings.flag("use_sliding_window", False) or (
        settings.get("sliding_window", 4096) is None
    ):
        return None
    window = settings.count("sliding_window", 4096)
    full = settings.count("max_window_layers", 28, least=0)
    kinds = settings.texts("layer_types") or [
        "full_attention" if layer < full else "sliding_attention" for layer in range(num_layers)
    ]
    if len(set(kinds)) > 1:
        some = kinds.count("sliding_attention")
        raise UserError(
            f"{settings.where}: sliding_window={window} holds for {some} of {num_layers} layers "
            f"(max_window_layers={full}); all layers must have the same window: use a checkpoint "
            "with use_sliding_window=false"
        )
    return window if kinds[0] == "sliding_attention" else None


def _check_layer_types(settings: CheckedValues, only: str) -> None:
    kinds = sorted(set(settings.texts("layer_types") or [only]))
    if kinds != [only]:
        raise UserError(
            f"{settings.where}: layer_types holds {', '.join(kinds)} and the other settings mean "
            f"{only} in all layers; all layers must have the same window: use another checkpoint"
        )


# Other names that transformers accepts for the same settings.
_GPT2_NAMES = {
    "num_hidden_layers": "n_layer", "hidden_size": "n_embd", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def _gpt2(settings: CheckedValues):
    settings = settings.renamed(_GPT2_NAMES)
    settings.refuse({
        "activation_function": (
            ("gelu_new", "gelu_pytorch_tanh"),
            "the MLP's activation is GELU in its tanh form: use another checkpoint",
        ),
        "scale_attn_weights": ((True,), "scores are divided by the root of head_dim"),
        "scale_attn_by_inverse_layer_idx": ((False, None), "all layers scale scores alike"),
        "add_cross_attention": ((False, None), "there is no encoder to attend to"),
    })
    num_heads, model_dim = settings.count("n_head", 12), settings.count("n_embd", 768)
    length = settings.count("n_positions", 1024)
    fields = {
        "family": "gpt",
        "num_layers": settings.count("n_layer", 12),
        "model_dim": model_dim,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": max(model_dim // num_heads, 1),
        "mlp_dim": settings.count("n_inner", 4 * model_dim),
        "vocab_size": settings.count("vocab_size", 50_257),
        "positions": "learned",
        "max_positions": length,
        # null is false to transformers, and absent is true
        "tied": settings.flag("tie_word_embeddings", "tie_word_embeddings" not in settings),
        "norm_eps": settings.number("layer_norm_epsilon", 1e-5),
    }
    return "gpt2", fields, length


_READERS = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "GPT2LMHeadModel": _gpt2,
}
MODEL_TYPES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
    "GPT2LMHeadModel": "gpt2",
}
"""Architecture -> `model_type` of its config.json."""
