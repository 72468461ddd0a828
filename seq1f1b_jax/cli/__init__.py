"""From the command line and YAML to a checked `Config`; imports no JAX and sets no environment."""

from seq1f1b_jax.cli.options import EvaluateOptions, GenerateOptions, TrainOptions
from seq1f1b_jax.cli.parse import Invocation, parse, to_yaml

__all__ = [
    "EvaluateOptions",
    "GenerateOptions",
    "Invocation",
    "TrainOptions",
    "parse",
    "to_yaml",
]
