"""Which tensor of a checkpoint is which of our leaves, and in which order of dims.

A rule is a name (`{}` is the layer), our leaf and two einops patterns, theirs and ours. Letters:

    d model_dim    h num_heads    k num_kv_heads    e head_dim    f mlp_dim    v vocab_size
    n max_positions    p 3 (query, key, value)    t 2 (halves of a head)    r head_dim / 2

So `(h e) d` -> `d (h e)` is the transpose from PyTorch's `[out, in]` to our `[in, out]`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from einops import rearrange

from seq1f1b_jax.models.decoder import Decoder


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
      name: the tensor's name in the checkpoint; `{}` is the layer.
      leaves: path of our leaf in `Params`, dots between; three where one tensor holds three.
      theirs: einops pattern of the tensor in the checkpoint.
      ours: pattern of our leaf, the dim `p` before it where there are three.
    """

    name: str
    leaves: tuple[str, ...]
    theirs: str
    ours: str

    def shape(self, stage: Decoder) -> tuple[int, ...]:
        """The tensor's shape in the checkpoint of a model."""
        sizes = letters(stage)
        return tuple(math.prod(sizes[c] for c in group) for group in _groups(self.theirs))

    def to_ours(self, tensor: np.ndarray, *, leaf: str, stage: Decoder) -> np.ndarray:
        """The part of a checkpoint's tensor that is our leaf, a view where that is possible."""
        ours = rearrange(tensor, f"{self.theirs} -> {self.ours}", **self._sizes(stage))
        return ours if len(self.leaves) == 1 else ours[self.leaves.index(leaf)]

    def to_theirs(self, parts: list[np.ndarray], *, stage: Decoder) -> np.ndarray:
        """The checkpoint's tensor from our leaves, in the order of `leaves`."""
        ours = parts[0] if len(parts) == 1 else np.stack(parts)
        return rearrange(ours, f"{self.ours} -> {self.theirs}", **self._sizes(stage))

    def _sizes(self, stage: Decoder) -> dict[str, int]:
        return {c: n for c, n in letters(stage).items() if c in self.theirs}


def letters(stage: Decoder) -> dict[str, int]:
    """Sizes of the letters of a pattern."""
    return {
        "d": stage.model_dim, "h": stage.num_heads, "k": stage.num_kv_heads, "e": stage.head_dim,
        "f": stage.mlp_dim, "v": stage.vocab_size, "n": getattr(stage, "max_positions", 0) or 0,
        "p": 3, "t": 2, "r": stage.head_dim // 2,
    }


def _groups(pattern: str) -> list[str]:
    # "d (h e)" -> ["d", "he"]
    parts = pattern.replace("(", " ( ").replace(")", " ) ").split()
    groups, inside = [], False
    for part in parts:
        if part in "()":
            inside = part == "("
            groups += [""] if inside else []
        elif inside:
            groups[-1] += part
        else:
            groups.append(part)
    return groups


def _rule(name: str, leaves: str, theirs: str, ours: str) -> Rule:
    return Rule(name, tuple(leaves.split()), theirs, ours)


_LLAMA = (
    _rule("model.embed_tokens.weight", "embedding", "v d", "v d"),
    _rule("model.layers.{}.input_layernorm.weight", "layers.attention_norm.scale", "d", "d"),
    _rule("model.layers.{}.self_attn.q_proj.weight", "layers.attention.query.kernel",
          "(h e) d", "d (h e)"),
    _rule("model.layers.{}.self_attn.k_proj.weight", "layers.attention.key.kernel",
          "(k e) d", "d (k e)"),
    _rule("model.layers.{}.self_attn.v_proj.weight", "layers.attention.value.kernel",
          "(k e) d", "d (k e)"),
    _rule("model.layers.{}.self_attn.q_proj.bias", "layers.attention.query.bias",
          "(h e)", "(h e)"),
    _rule("model.layers.{}.self_attn.k_proj.bias", "layers.attention.key.bias", "(k e)", "(k e)"),
    _rule("model.layers.{}.self_attn.v_proj.bias", "layers.attention.value.bias",
          "(k e)", "(k e)"),
    _rule("model.layers.{}.self_attn.o_proj.weight", "layers.attention.output.kernel",
          "d (h e)", "h e d"),
    _rule("model.layers.{}.self_attn.o_proj.bias", "layers.attention.output.bias", "d", "d"),
    _rule("model.layers.{}.post_attention_layernorm.weight", "layers.mlp_norm.scale", "d", "d"),
    _rule("model.layers.{}.mlp.gate_proj.weight", "layers.mlp.gate.kernel", "f d", "d f"),
    _rule("model.layers.{}.mlp.up_proj.weight", "layers.mlp.up.kernel", "f d", "d f"),
    _rule("model.layers.{}.mlp.down_proj.weight", "layers.mlp.down.kernel", "d f", "f d"),
    _rule("model.norm.weight", "last.scale", "d", "d"),
    _rule("lm_head.weight", "head", "v d", "v d"),
)

# GPT-2 stores kernels as [in, out], and query, key and value in one.
_GPT2 = (
    _rule("transformer.wte.weight", "embedding", "v d", "v d"),
    _rule("transformer.wpe.weight", "first.table", "n d", "n d"),
    _rule("transformer.h.{}.ln_1.weight", "layers.attention_norm.scale", "d", "d"),
    _rule("transformer.h.{}.ln_1.bias", "layers.attention_norm.bias", "d", "d"),
    _rule("transformer.h.{}.attn.c_attn.weight",
          "layers.attention.query.kernel layers.attention.key.kernel layers.attention.value.kernel",
          "d (p h e)", "p d (h e)"),
    _rule("transformer.h.{}.attn.c_attn.bias",
          "layers.attention.query.bias layers.attention.key.bias layers.attention.value.bias",
          "(p h e)", "p (h e)"),
    _rule("transformer.h.{}.attn.c_proj.weight", "layers.attention.output.kernel",
          "(h e) d", "h e d"),
    _rule("transformer.h.{}.attn.c_proj.bias", "layers.attention.output.bias", "d", "d"),
    _rule("transformer.h.{}.ln_2.weight", "layers.mlp_norm.scale", "d", "d"),
    _rule("transformer.h.{}.ln_2.bias", "layers.mlp_norm.bias", "d", "d"),
    _rule("transformer.h.{}.mlp.c_fc.weight", "layers.mlp.up.kernel", "d f", "d f"),
    _rule("transformer.h.{}.mlp.c_fc.bias", "layers.mlp.up.bias", "f", "f"),
    _rule("transformer.h.{}.mlp.c_proj.weight", "layers.mlp.down.kernel", "f d", "f d"),
    _rule("transformer.h.{}.mlp.c_proj.bias", "layers.mlp.down.bias", "d", "d"),
    _rule("transformer.ln_f.weight", "last.scale", "d", "d"),
    _rule("transformer.ln_f.bias", "last.bias", "d", "d"),
    _rule("lm_head.weight", "head", "v d", "v d"),
)

_GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
# llama.cpp turns neighbouring dims of a head, so its files for `llama` hold a head's rows as
# (r t), pair by pair, where ours are (t r), half by half. Its files for `qwen2` are not permuted.
_PAIRS = {"(h e) d": "(h r t) d", "(k e) d": "(k r t) d", "(h e)": "(h r t)", "(k e)": "(k r t)"}
_HALVES = {"d (h e)": "d (h t r)", "d (k e)": "d (k t r)", "(h e)": "(h t r)", "(k e)": "(k t r)"}


def _gguf(rule: Rule, *, permuted: bool) -> Rule:
    stem, kind = rule.name.rsplit(".", 1)
    name = f"{_GGUF_NAMES[stem]}.{kind}"
    if permuted and ("attn_q" in name or "attn_k" in name):
        return Rule(name, rule.leaves, _PAIRS[rule.theirs], _HALVES[rule.ours])
    return Rule(name, rule.leaves, rule.theirs, rule.ours)


TABLES: Mapping[str, tuple[Rule, ...]] = MappingProxyType({
    "llama": _LLAMA,
    "gpt2": _GPT2,
    "gguf-llama": tuple(_gguf(rule, permuted=True) for rule in _LLAMA),
    "gguf-qwen2": tuple(_gguf(rule, permuted=False) for rule in _LLAMA),
})
"""Kind of checkpoint -> its rules. Mistral and Qwen2 have Llama's names."""
