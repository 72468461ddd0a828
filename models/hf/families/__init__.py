"""The architectures of transformers that our models compute, each a table of names and settings.

`FAMILIES` holds all of them, in the order in which a model is tried to be written as one.

    family.py   what an architecture is        layers.py      layers that differ, both ways
    llama.py    Llama, Mistral, Ministral, Qwen2, Qwen3, SmolLM3, Granite
    experts.py  Qwen3-MoE, Mixtral, OLMoE
    gemma.py    Gemma 1, 2 and 3               olmo.py        OLMo 2 and 3
    phi.py      Phi-3 and Phi-4                others.py      Seed-OSS, CWM, EXAONE 4
    gpt2.py     GPT-2                          llama_cpp.py   the names in GGUF files
"""

from seq1f1b_jax.models.hf.families.experts import MIXTRAL, OLMOE, QWEN3_MOE
from seq1f1b_jax.models.hf.families.family import Family, Fields
from seq1f1b_jax.models.hf.families.gemma import GEMMA, GEMMA2, GEMMA3
from seq1f1b_jax.models.hf.families.gpt2 import GPT2
from seq1f1b_jax.models.hf.families.llama import (
    GRANITE,
    LLAMA,
    MINISTRAL,
    MISTRAL,
    QWEN2,
    QWEN3,
    SMOLLM3,
)
from seq1f1b_jax.models.hf.families.olmo import OLMO2, OLMO3
from seq1f1b_jax.models.hf.families.others import CWM, EXAONE4, SEED_OSS
from seq1f1b_jax.models.hf.families.phi import PHI3

FAMILIES: tuple[Family, ...] = (
    LLAMA, MISTRAL, QWEN2, MINISTRAL, QWEN3, SMOLLM3, GEMMA, GEMMA2, GEMMA3, OLMO2, OLMO3, PHI3,
    GRANITE, SEED_OSS, CWM, EXAONE4, QWEN3_MOE, MIXTRAL, OLMOE, GPT2,
)
"""In the order in which a model is written as one of them: the first that computes the same."""

__all__ = ["FAMILIES", "Family", "Fields"]
