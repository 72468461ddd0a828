"""What each command takes beside the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class TrainOptions:
    """Train, or continue the run that output_dir holds. This is what runs without a command."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Loss of the newest checkpoint on held-out text.

    Attributes:
      num_sequences: held-out sequences; null: train.eval_sequences.
    """

    num_sequences: int | None = None


@dataclass(frozen=True)
class GenerateOptions:
    """Text sampled from the newest checkpoint.

    Attributes:
      prompt: what the text begins with.
      num_tokens: tokens to sample.
      temperature: divides the logits; 0 takes the likeliest token.
      top_p: sample from the likeliest tokens that together have this probability.
      seed: seed of the sample.
    """

    prompt: str = "def "
    num_tokens: int = 200
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class ExportOptions:
    """The newest checkpoint as a folder of config.json and safetensors that transformers loads.

    Attributes:
      to: the folder, which must not exist yet.
      dtype: of the tensors.
    """

    to: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"


Options = TrainOptions | EvaluateOptions | GenerateOptions | ExportOptions

COMMANDS: Mapping[str, type[Options]] = MappingProxyType(
    {
        "train": TrainOptions,
        "evaluate": EvaluateOptions,
        "generate": GenerateOptions,
        "export": ExportOptions,
    }
)


def option_problem(options: Options) -> str | None:
    """What is wrong with the values of `options`, or None."""
    if isinstance(options, EvaluateOptions) and options.num_sequences is not None:
        if options.num_sequences < 1:
            return f"--num_sequences {options.num_sequences}: must be above 0; use 1 or more"
    if isinstance(options, ExportOptions) and options.to is None:
        return "export writes a new folder; name it with --to FOLDER"
    if isinstance(options, GenerateOptions):
        if options.num_tokens < 1:
            return f"--num_tokens {options.num_tokens}: must be above 0; use 1 or more"
        if not options.temperature >= 0:
            return f"--temperature {options.temperature}: must not be negative; use 0 or more"
        if not 0 < options.top_p <= 1:
            return f"--top_p {options.top_p}: must be above 0 and at most 1; use 1 for all tokens"
    return None
