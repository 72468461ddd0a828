"""What an architecture of transformers is: its names, and its settings read and written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.rope import read_rope, write_rope
from seq1f1b_jax.models.hf.rules import Rule
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama

Fields = dict[str, Any]
SILU = ("silu", "swish")
GELU = ("gelu_pytorch_tanh", "gelu_new")


@dataclass(frozen=True)
class Family:
    """An architecture.

    Attributes:
      architecture: its class in transformers.
      model_type: of its config.json.
      rules: its tensors; those of leaves that a model lacks are left out.
      read: settings -> keyword arguments of `build_stage`, and the longest sequence in tokens.
      write: a model of that class and its longest sequence -> settings. They are used if `read`
        gives the model back from them, so that it need not look at what it cannot say. `None`: it
        is none of these.
      model: our class.
    """

    architecture: str
    model_type: str
    rules: tuple[Rule, ...]
    read: Callable[[CheckedValues], tuple[Fields, int]]
    write: Callable[[Any, int | None], dict[str, Any] | None]
    model: type[Decoder] = Llama


def read_sizes(
    settings: CheckedValues, *, kv_heads: int | None = None, head_dim: int | None = None,
    tied: bool = False, norm_eps: float = 1e-6, theta: float = 10_000.0,
    activations: Mapping[str, tuple[str, ...]] | None = None, rope: bool = True,
    partial: bool = False,
) -> Fields:
    """Fields that all relatives of Llama spell alike.

    Args:
      settings: of the config.json.
      kv_heads: key/value heads where the setting is absent; `None`: as many as heads.
      head_dim: width of a head where it is absent; `None`: the model's over the heads.
      tied: default of `tie_word_embeddings`.
      norm_eps: that of `rms_norm_eps`.
      theta: that of `rope_theta`.
      activations: names of the MLP's activation in the file, by our name.
      rope: whether to read how positions are stretched; else the caller does.
      partial: see `read_rope`.
    """
    activations = activations or {"silu": SILU}
    given = next((n for n in ("hidden_activation", "hidden_act") if settings.get(n)), "hidden_act")
    known = tuple(name for names in activations.values() for name in names)
    why = f"the MLP's activation is {' or '.join(activations)}: use another checkpoint"
    settings.refuse({given: (known, why)})
    named = settings.get(given, known[0])
    num_heads = settings.count("num_attention_heads")
    model_dim = settings.count("hidden_size")
    if kv_heads is None or "num_key_value_heads" in settings:
        kv_heads = num_heads
    stretched: Fields = {}
    if rope:
        stretched["rope_theta"], stretched["rope"] = read_rope(
            settings, theta=theta, partial=partial
        )
    return {
        "family": "llama",
        "num_layers": settings.count("num_hidden_layers"),
        "model_dim": model_dim,
        "num_heads": num_heads,
        "num_kv_heads": settings.count("num_key_value_heads", kv_heads),
        "head_dim": settings.count("head_dim", head_dim or max(model_dim // num_heads, 1)),
        "mlp_dim": settings.count("intermediate_size"),
        "vocab_size": settings.count("vocab_size"),
        "tied": settings.flag("tie_word_embeddings", tied),
        "norm_eps": settings.number("rms_norm_eps", norm_eps),
        **stretched,
        "window": None,
        "qkv_bias": False,
        "output_bias": False,
        "activation": next(ours for ours, names in activations.items() if named in names),
    }


def write_sizes(stage: Llama, length: int | None) -> dict[str, Any]:
    """The settings that `read_sizes` reads."""
    length = _stretched_length(stage) or length
    return {
        "num_hidden_layers": stage.num_layers,
        "hidden_size": stage.model_dim,
        "num_attention_heads": stage.num_heads,
        "num_key_value_heads": stage.num_kv_heads,
        "head_dim": stage.head_dim,
        "intermediate_size": stage.mlp_dim,
        "hidden_act": "silu" if stage.activation == "silu" else GELU[0],
        "rms_norm_eps": stage.norm_eps,
        **({} if length is None else {"max_position_embeddings": length}),
        **write_rope(stage.rope_theta, stage.rope, head_dim=stage.head_dim),
    }


def _stretched_length(stage: Llama) -> int | None:
    # Some versions of transformers take yarn's factor from the ratio of these two lengths.
    trained = stage.rope.original_max_positions
    if stage.rope.type == "dynamic":
        return trained
    if stage.rope.type not in ("yarn", "longrope") or trained is None:
        return None
    return round(stage.rope.factor * trained)
