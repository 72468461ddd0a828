"""Phi-3 and Phi-4: fused projections, and positions in a part of the dims of a head."""

from typing import Any

from seq1f1b_jax.models.hf.families.family import Family, Fields, read_sizes, write_sizes
from seq1f1b_jax.models.hf.families.llama import RULES as LLAMA_RULES
from seq1f1b_jax.models.hf.rope import partial_factor
from seq1f1b_jax.models.hf.rules import fused
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama

_BY_LEAF = {one.leaves[0].removeprefix("layers."): one for one in LLAMA_RULES}
_FUSED = {
    "self_attn.qkv_proj": ("attention.query.kernel", "attention.key.kernel",
                           "attention.value.kernel"),
    "mlp.gate_up_proj": ("mlp.gate.kernel", "mlp.up.kernel"),
}
_PARTS = {leaf for leaves in _FUSED.values() for leaf in leaves}
RULES = (
    *(one for leaf, one in _BY_LEAF.items() if leaf not in _PARTS),
    *(
        fused(f"model.layers.{{}}.{name}.weight", *(_BY_LEAF[leaf] for leaf in leaves))
        for name, leaves in _FUSED.items()
    ),
)


def _read(settings: CheckedValues) -> tuple[Fields, int]:
    fields = read_sizes(settings, norm_eps=1e-5, partial=True)
    window = None
    if settings.get("sliding_window") is not None:
        window = settings.count("sliding_window")
    turned = int(fields["head_dim"] * partial_factor(settings))
    fields |= {"window": window}
    fields |= {} if turned == fields["head_dim"] else {"rotary_dim": turned}
    return fields, settings.count("max_position_embeddings", 4096)


def _write(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.layer_pattern:
        return None
    if stage.head_dim * stage.num_heads != stage.model_dim:
        return None
    found = write_sizes(stage, length)
    del found["head_dim"]
    trained = stage.rope.original_max_positions or length
    part = (stage.rotary_dim or stage.head_dim) / stage.head_dim
    found["rope_parameters"]["partial_rotary_factor"] = part
    return found | {
        "sliding_window": stage.window, "partial_rotary_factor": part,
        **({} if trained is None else {"original_max_position_embeddings": trained}),
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0,
    }


PHI3 = Family("Phi3ForCausalLM", "phi3", RULES, _read, _write)
