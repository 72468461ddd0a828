"""Settings and models that had another name: what a run keeps is read under the new one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from seq1f1b_jax.config import DEFAULT_POSITIONS

_COUNTS = (
    "which counts sequences: give it the old number times schedule.num_microbatches times "
    "data.microbatch_size"
)
SAME: Mapping[str, str] = MappingProxyType(
    {
        "executor.residuals": "executor.recompute",
        "schedule.num_virtual": "schedule.stages_per_rank",
    }
)
"""Old name -> new name of the same setting."""

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        **SAME,
        "train.eval_batches": f"train.eval_sequences, {_COUNTS}",
        "num_batches": f"num_sequences, {_COUNTS}",
    }
)
"""Old name -> what a message gives for it. What those not in `SAME` meant depends on others."""

OLD_MODELS = ("models:build_stage", "models.llama:Llama", "models.gpt:Gpt")
"""Values of `model.stage` for our own classes, from when they were imported as `models`."""


def model_name(stage: str | None) -> str | None:
    """`model.stage` under the name that our own classes have now.

    Example:
      >>> model_name("models.llama:Llama"), model_name("mine:Model")
      ('seq1f1b_jax.models.llama:Llama', 'mine:Model')
    """
    return f"seq1f1b_jax.{stage}" if stage in OLD_MODELS else stage


def with_positions(model: Mapping[str, Any]) -> dict[str, Any]:
    """A section `model`, the positions of a gpt named: before there was a choice, it learned them.

    A section without the name `positions` is that of an earlier version.

    Example:
      >>> with_positions({"family": "gpt", "preset": "7b"})["positions"]
      'learned'
      >>> with_positions({"family": "gpt", "preset": "7b", "positions": "rotary"})["positions"]
      'rotary'
    """
    if "positions" in model:
        return dict(model)
    if model.get("stage") is None:
        return {**model, "positions": DEFAULT_POSITIONS.get(str(model.get("family")))}
    settings, ours = model.get("settings"), str(model["stage"]).endswith("models:build_stage")
    if ours and isinstance(settings, Mapping) and settings.get("family") == "gpt":
        settings = {"positions": "learned", **settings}
    return {**model, "positions": None, "settings": settings}
