"""Layers that differ, as `layer_types` of a config.json names them, both ways."""

from collections.abc import Sequence
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama

FULL, SLIDING = "full_attention", "sliding_attention"
OURS = {FULL: "full", SLIDING: "window"}


def read_layers(
    settings: CheckedValues, *, num_layers: int, window: int | None, otherwise: Sequence[str]
) -> dict[str, Any]:
    """Fields `window` and `layer_pattern`.

    Args:
      settings: of the config.json.
      num_layers: of the model.
      window: its size; `None`: no layer has one, whatever is named.
      otherwise: the kinds of the layers where `layer_types` is absent.

    Raises:
      UserError: kinds that our models lack, or not one for each layer.
    """
    kinds = settings.texts("layer_types") or list(otherwise)
    unknown = sorted(set(kinds) - set(OURS))
    if unknown:
        raise UserError(
            f"{settings.where}: layer_types holds {', '.join(unknown)}; {' and '.join(OURS)} are "
            "supported: use another checkpoint"
        )
    if len(kinds) != num_layers:
        raise UserError(
            f"{settings.where}: layer_types names {len(kinds)} layers of {num_layers}; correct it"
        )
    if window is None and SLIDING in kinds:
        raise UserError(
            f"{settings.where}: layer_types holds {SLIDING} and there is no sliding_window; "
            "correct the one that is wrong"
        )
    ours = [OURS[kind] for kind in kinds]
    if len(set(ours)) == 1:
        return {"window": window if ours[0] == "window" else None, "layer_pattern": None}
    return {"window": window, "layer_pattern": shortest(ours)}


def shortest(kinds: Sequence[str]) -> list[str]:
    """The shortest pattern that gives these layers when it is repeated.

    Example:
      >>> shortest(["window", "full", "window", "full", "window"])
      ['window', 'full']
    """
    for length in range(1, len(kinds)):
        if all(kind == kinds[index % length] for index, kind in enumerate(kinds)):
            return list(kinds[:length])
    return list(kinds)


def written(stage: Llama) -> list[str] | None:
    """The content of `layer_types`; `None`: it has no name for a kind of this model."""
    names = {ours: theirs for theirs, ours in OURS.items()}
    kinds = stage.layer_kinds or ("full" if stage.window is None else "window",) * stage.num_layers
    return [names[kind] for kind in kinds] if set(kinds) <= set(names) else None
