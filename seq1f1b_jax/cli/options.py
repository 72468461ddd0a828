"""What each command takes beside the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_type_hints


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
      chat: whether the prompt is the user's turn, written by the tokenizer's chat template; only
        the answer is printed.
      system: with chat, instructions before the user's turn.
    """

    prompt: str = "def "
    num_tokens: int = 200
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0
    chat: bool = False
    system: str | None = None


@dataclass(frozen=True)
class ExportOptions:
    """The newest checkpoint as a folder of config.json and safetensors that transformers loads.

    Attributes:
      to: the folder, which must not exist yet.
      dtype: of the tensors.
      adapter: whether to write the adapters of lora.rank alone, as a folder that PEFT loads; else
        they are merged into the weights.
    """

    to: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    adapter: bool = False


@dataclass(frozen=True)
class PlanOptions:
    """Predict memory and time without devices, and search for a faster configuration that fits.

    Attributes:
      hardware: the device: a100-40g, a100-80g, h100-80g, h200-141g, b200-180g, l40s-48g, t4-16g,
        cpu, or a YAML file like theirs.
      devices: how many; null: as many as the mesh takes, or one host.
      search: whether to search mesh, schedule, chunks, recomputation and offload.
      top: configurations to print.
      tokens: to train on, for the cost.
      price: of an hour of one device.
      to: new recipe with the best configuration, or with the given one without a search.
      draw: picture of memory and time of each rank: .svg, .png or .pdf.
    """

    hardware: str = "h100-80g"
    devices: int | None = None
    search: bool = True
    top: int = 5
    tokens: float | None = None
    price: float | None = None
    to: str | None = None
    draw: str | None = None


@dataclass(frozen=True)
class ReportOptions:
    """A page that shows runs: the folders RUN ..., or that of train.output_dir.

    Attributes:
      to: the page, a file that ends in .html; null: report.html in the folder of the run, or, of
        several, in the one that holds them all.
      runs: the folders, which are words of their own on the command line.
    """

    to: str | None = None
    runs: tuple[str, ...] = ()


Options = (
    TrainOptions | EvaluateOptions | GenerateOptions | ExportOptions | PlanOptions | ReportOptions
)

COMMANDS: Mapping[str, type[Options]] = MappingProxyType(
    {
        "train": TrainOptions,
        "evaluate": EvaluateOptions,
        "generate": GenerateOptions,
        "export": ExportOptions,
        "plan": PlanOptions,
        "report": ReportOptions,
    }
)
WORDS: Mapping[str, tuple[str, str]] = MappingProxyType({"report": ("runs", "RUN")})
"""Of commands that take words without a name: the option that holds them, and what help says."""


def option_types(command: str) -> dict[str, Any]:
    """Types of what a command takes as `--NAME VALUE` beside the configuration.

    Example:
      >>> list(option_types("report"))
      ['to']
    """
    word, _ = WORDS.get(command, ("", ""))
    return {name: hint for name, hint in get_type_hints(COMMANDS[command]).items() if name != word}


def option_problem(options: Options) -> str | None:
    """What is wrong with the values of `options`, or None."""
    if isinstance(options, EvaluateOptions) and options.num_sequences is not None:
        if options.num_sequences < 1:
            return f"--num_sequences {options.num_sequences}: must be above 0; use 1 or more"
    if isinstance(options, ExportOptions) and options.to is None:
        return "export writes a new folder; name it with --to FOLDER"
    if isinstance(options, PlanOptions):
        for name in ("devices", "top", "tokens", "price"):
            value = getattr(options, name)
            if value is not None and not 0 < value < float("inf"):
                return f"--{name} {value}: must be above 0; use {'1' if name == 'top' else 'more'}"
    if isinstance(options, ReportOptions) and options.to is not None:
        if not options.to.lower().endswith(".html"):
            return f"--to {options.to!r}: the page is an HTML file; end its name in .html"
    if isinstance(options, GenerateOptions):
        if options.system is not None and not options.chat:
            return "--system is a turn of a conversation; use it with --chat"
        if options.num_tokens < 1:
            return f"--num_tokens {options.num_tokens}: must be above 0; use 1 or more"
        if not options.temperature >= 0:
            return f"--temperature {options.temperature}: must not be negative; use 0 or more"
        if not 0 < options.top_p <= 1:
            return f"--top_p {options.top_p}: must be above 0 and at most 1; use 1 for all tokens"
    return None
