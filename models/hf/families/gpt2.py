"""GPT-2: kernels stored as `[in, out]`, and query, key and value in one tensor."""

from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.gpt import Gpt
from seq1f1b_jax.models.hf.families.family import Family, Fields
from seq1f1b_jax.models.hf.rules import fused, rule
from seq1f1b_jax.models.hf.settings import CheckedValues

_QKV = ("query", "key", "value")
RULES = (
    rule("transformer.wte.weight", "embedding", "v d", "v d"),
    rule("transformer.wpe.weight", "first.table", "n d", "n d"),
    rule("transformer.h.{}.ln_1.weight", "layers.attention_norm.scale", "d", "d"),
    rule("transformer.h.{}.ln_1.bias", "layers.attention_norm.bias", "d", "d"),
    fused(
        "transformer.h.{}.attn.c_attn.weight",
        *(rule("", f"layers.attention.{x}.kernel", "d (h e)", "d (h e)") for x in _QKV), axis=1,
    ),
    fused(
        "transformer.h.{}.attn.c_attn.bias",
        *(rule("", f"layers.attention.{x}.bias", "(h e)", "(h e)") for x in _QKV),
    ),
    rule("transformer.h.{}.attn.c_proj.weight", "layers.attention.output.kernel",
         "(h e) d", "h e d"),
    rule("transformer.h.{}.attn.c_proj.bias", "layers.attention.output.bias", "d", "d"),
    rule("transformer.h.{}.ln_2.weight", "layers.mlp_norm.scale", "d", "d"),
    rule("transformer.h.{}.ln_2.bias", "layers.mlp_norm.bias", "d", "d"),
    rule("transformer.h.{}.mlp.c_fc.weight", "layers.mlp.up.kernel", "d f", "d f"),
    rule("transformer.h.{}.mlp.c_fc.bias", "layers.mlp.up.bias", "f", "f"),
    rule("transformer.h.{}.mlp.c_proj.weight", "layers.mlp.down.kernel", "f d", "f d"),
    rule("transformer.h.{}.mlp.c_proj.bias", "layers.mlp.down.bias", "d", "d"),
    rule("transformer.ln_f.weight", "last.scale", "d", "d"),
    rule("transformer.ln_f.bias", "last.bias", "d", "d"),
    rule("lm_head.weight", "head", "v d", "v d"),
)

# Other names that transformers accepts for the same settings.
_NAMES = {
    "num_hidden_layers": "n_layer", "hidden_size": "n_embd", "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def _read(settings: CheckedValues) -> tuple[Fields, int]:
    settings = settings.renamed(_NAMES)
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
    return fields, length


def _write(stage: Gpt, length: int | None) -> dict[str, Any] | None:
    _check(stage)
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


def _check(stage: Gpt) -> None:
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


GPT2 = Family("GPT2LMHeadModel", "gpt2", RULES, _read, _write, Gpt)
