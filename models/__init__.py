"""Decoder-only transformers for the pipeline: `gpt` and `llama`, defined in Flax NNX.

The folder is linked into the package. In a clone `import models` gives the same objects; import
modules inside it as `seq1f1b_jax.models.x`, since `models.x` would be a second copy.

Example:
  >>> from seq1f1b_jax.models import build_stage
  >>> build_stage("gpt", preset="125m").model_dim
  768
"""

from seq1f1b_jax.config.presets import PRESETS, preset_fields
from seq1f1b_jax.models.decoder import Decoder, num_params
from seq1f1b_jax.models.registry import FAMILIES, build_stage

__all__ = ["FAMILIES", "PRESETS", "Decoder", "build_stage", "num_params", "preset_fields"]
