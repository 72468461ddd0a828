"""Whether the leaves that train are those of a checkpoint, whose optimizer keeps state of these."""

from collections.abc import Mapping
from typing import Any

from seq1f1b_jax.config import LoraConfig, UserError
from seq1f1b_jax.config.lora import trainable_patterns
from seq1f1b_jax.pipeline.params.trained import find_trained, leaf_names
from seq1f1b_jax.training.setup import Setup


def check_same_trained(meta: Mapping[str, Any], setup: Setup) -> None:
    """Refuse a checkpoint whose optimizer has the state of other leaves.

    Raises:
      UserError: leaves that train now and did not, or the other way round.
    """
    given = meta["config"]["train"].get("trainable")  # of an earlier version: everything trains
    lora = LoraConfig(**meta["config"].get("lora", {}))
    patterns = trainable_patterns(lora, None if given is None else tuple(given))
    if patterns == setup.config.trainable:
        return
    saved, now = find_trained(setup.stage, patterns), setup.pipeline.trained
    changed = [name for name in leaf_names(setup.stage) if (name in saved) != (name in now)]
    if changed:
        one = changed[0]
        was, is_now = ("trained" if one in of else "frozen" for of in (saved, now))
        more = f", and {len(changed) - 1} more differ" * (len(changed) > 1)
        folder = setup.config.train.output_dir
        raise UserError(
            f"the run in {folder} trains other leaves: {one} was {was} and is to be {is_now}{more};"
            " keep train.trainable, or start from its weights: python train.py export, and "
            "--model.source with another --train.output_dir"
        )
