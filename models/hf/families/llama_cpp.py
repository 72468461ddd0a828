"""The tensors of GGUF files: other names, and heads whose dims are in another order."""

from seq1f1b_jax.models.hf.families.llama import RULES as LLAMA_RULES
from seq1f1b_jax.models.hf.rules import Piece, Rule

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
# llama.cpp turns neighbouring dims of a head, so its files for `llama` hold a head's rows as
# (r t), pair by pair, where ours are (t r), half by half. Its other files are not permuted.
_PAIRS = {"(h e) d": "(h r t) d", "(k e) d": "(k r t) d", "(h e)": "(h r t)", "(k e)": "(k r t)"}
_HALVES = {"d (h e)": "d (h t r)", "d (k e)": "d (k t r)", "(h e)": "(h t r)", "(k e)": "(k t r)"}


def _gguf(rule: Rule, *, permuted: bool) -> Rule:
    stem, kind = rule.name.rsplit(".", 1)
    name, (piece,) = f"{_NAMES[stem]}.{kind}", rule.pieces
    if permuted and ("attn_q." in name or "attn_k." in name):
        piece = Piece(piece.leaf, _PAIRS[piece.theirs], _HALVES[piece.ours])
    return Rule(name, (piece,))


PERMUTED = tuple(_gguf(rule, permuted=True) for rule in LLAMA_RULES)
STRAIGHT = tuple(_gguf(rule, permuted=False) for rule in LLAMA_RULES)
