"""What a model with experts may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seq1f1b_jax.config.lora import LoraConfig

SETTINGS = ("num_experts", "experts_per_token", "normalize_experts")


def expert_problems(sizes: Mapping[str, Any], lora: LoraConfig) -> Iterator[str]:
    """What is wrong with a model's experts, one line each.

    Args:
      sizes: fields of the model that are set.
      lora: its adapters.

    Example:
      >>> from seq1f1b_jax.config import LoraConfig
      >>> list(expert_problems({"family": "llama", "num_experts": 4}, LoraConfig()))[0][:60]
      'model.num_experts=4 and model.experts_per_token=None; a rout'
    """
    given = [name for name in SETTINGS if sizes.get(name) is not None]
    if not given:
        return
    count, chosen = (sizes.get(name) for name in SETTINGS[:2])
    if sizes["family"] != "llama":
        yield (
            f"model.{given[0]}={sizes[given[0]]} does not exist in family {sizes['family']!r}, "
            "whose MLP is one; leave it out, or use --model.family llama"
        )
    elif count is None or chosen is None or not 1 <= chosen <= count:
        yield (
            f"model.num_experts={count} and model.experts_per_token={chosen}; a router chooses 1 "
            "or more, and at most all of them: set both"
        )
    if sizes.get("mlp_bias") and sizes["family"] == "llama":
        yield "model.mlp_bias=True does not exist with model.num_experts; leave one of them out"
    adapted = [name for name in ("gate", "up", "down") if lora.adapts(name)]
    if adapted:
        yield (
            f"lora.projections names {', '.join(adapted)}, and experts have no adapters; name "
            "projections of attention, and experts in train.trainable"
        )
