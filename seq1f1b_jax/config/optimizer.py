"""Settings of the optimizer and its learning rate: which there are, and which have an effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

OptimizerName = Literal["adamw", "adafactor", "lion", "muon"]
Course = Literal["cosine", "linear", "constant", "wsd"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, the course of its learning rate, and a global-norm clip.

    A setting that is None has the value that is usual with the chosen optimizer or schedule
    (`DEFAULTS`). One that has no effect with it is refused.

    Attributes:
      name: `adamw`; `adafactor` (second moments by rows and columns); `lion` (signs of one moment);
        `muon` (orthogonal updates of the layers' matrices, AdamW for the rest).
      schedule: after the warm-up, `cosine` or `linear` fall to the minimum; `constant` stays; `wsd`
        stays, and falls linearly at the end.
      learning_rate: peak of the schedule; usual with AdamW and Muon 1e-4 to 3e-3, Lion a third to a
        tenth of that, Adafactor 1e-2 (see parameter_scale).
      warmup_steps: steps of the linear rise to the peak; at most half of the run.
      decay_steps: after so many steps in all the rate is at its minimum, and stays; None:
        train.num_steps.
      decay_fraction: part of these steps in which the rate falls (wsd); None: 0.2.
      min_learning_rate_ratio: learning rate of the last step over the peak.
      weight_decay: decay of the matrices times the learning rate, apart from the gradient; norms
        and biases are left out. Usual with Lion is 3 to 10 times that of AdamW.
      clip_norm: largest global gradient norm; larger gradients are scaled down to it.
      b1: decay of the first moment (Lion: the moment's share of a step's direction); None: 0.9.
      b2: decay of the second moment, None: 0.95; of Lion's one moment, None: 0.99.
      eps: constant added to the root of the second moment (adamw, muon); None: 1e-8.
      momentum: decay of the matrices' moment (muon); None: 0.95.
      nesterov: whether the step looks one gradient ahead of that moment (muon); None: true.
      ns_steps: Newton-Schulz iterations that make a step orthogonal (muon); None: 5.
      consistent_rms: root mean square of a matrix's step over the learning rate (muon); None: 0.2,
        as AdamW's, so that learning rates and weight decay of AdamW will do.
      decay_rate: the second moments of step t, counted from 1, keep 1 - t**-decay_rate of the
        earlier ones (adafactor); None: 0.8.
      clip_rms: largest root mean square of a matrix's step before the learning rate (adafactor);
        None: 1.
      parameter_scale: whether a step is relative to the matrix's own root mean square (adafactor);
        None: true.
      min_dim_size_to_factor: a matrix with a dim below it keeps its second moments whole
        (adafactor); None: 128.
    """

    name: OptimizerName = "adamw"
    schedule: Course = "cosine"
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    decay_steps: int | None = None
    decay_fraction: float | None = None
    min_learning_rate_ratio: float = 0.1
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    ns_steps: int | None = None
    consistent_rms: float | None = None
    decay_rate: float | None = None
    clip_rms: float | None = None
    parameter_scale: bool | None = None
    min_dim_size_to_factor: int | None = None


_ADAM = {"b1": 0.9, "b2": 0.95, "eps": 1e-8}
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "adamw": _ADAM,
        "adafactor": {
            "decay_rate": 0.8, "clip_rms": 1.0, "parameter_scale": True,
            "min_dim_size_to_factor": 128,
        },
        "lion": {"b1": 0.9, "b2": 0.99},
        "muon": _ADAM | {
            "momentum": 0.95, "nesterov": True, "ns_steps": 5, "consistent_rms": 0.2
        },
    }
)
"""Of each optimizer the settings that are its own, with their usual values."""
COURSES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "cosine": {"decay_steps": None, "min_learning_rate_ratio": 0.1},
        "linear": {"decay_steps": None, "min_learning_rate_ratio": 0.1},
        "constant": {},
        "wsd": {"decay_steps": None, "min_learning_rate_ratio": 0.1, "decay_fraction": 0.2},
    }
)
"""Likewise of each schedule."""


_BELOW_1 = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")
_PART = (lambda value: 0 < value <= 1, "must be above 0 and at most 1")
_POSITIVE = (lambda value: 0 < value < math.inf, "must be above 0")
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "b1": _BELOW_1, "b2": _BELOW_1, "momentum": _BELOW_1,
        "decay_fraction": _PART, "decay_rate": _PART,
        "eps": _POSITIVE, "consistent_rms": _POSITIVE, "clip_rms": _POSITIVE,
        "min_dim_size_to_factor": (lambda value: 0 < value < 1 << 31, "must be above 0"),
        "ns_steps": (lambda value: 0 < value <= 100, "must be above 0 and at most 100"),
    }
)  # fmt: skip


def resolve_optimizer(config: OptimizerConfig) -> dict[str, Any]:
    """Every setting that has an effect, with the value that it has.

    Example:
      >>> settings = resolve_optimizer(OptimizerConfig(name="lion", learning_rate=1e-4))
      >>> settings["b1"], settings["b2"], "eps" in settings
      (0.9, 0.99, False)
    """
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    own = {**COURSES[config.schedule], **DEFAULTS[config.name]}
    common = given.keys() - _owned(DEFAULTS) - _owned(COURSES)
    used = {name: given[name] for name in given if name in common or name in own}
    return {name: own.get(name) if value is None else value for name, value in used.items()}


def optimizer_from(tree: Mapping[str, Any]) -> OptimizerConfig:
    """The settings that a checkpoint names; of another version, perhaps not all are known."""
    known = {field.name for field in fields(OptimizerConfig)}
    return OptimizerConfig(**{name: value for name, value in tree.items() if name in known})


def optimizer_problems(config: OptimizerConfig) -> Iterator[str]:
    """Every problem of the settings, one line each."""
    yield from _without_effect(config, "name", DEFAULTS)
    yield from _without_effect(config, "schedule", COURSES)
    usual = resolve_optimizer(OptimizerConfig(config.name, config.schedule))
    for name, (fits, rule) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not fits(value):
            yield f"optimizer.{name}={value}: {rule}; use {usual.get(name)}"
    ratio = config.min_learning_rate_ratio
    if not 0 <= ratio <= 1:
        yield f"optimizer.min_learning_rate_ratio={ratio}: must be between 0 and 1; use 0.1"


def _without_effect(
    config: OptimizerConfig, chooser: str, owners: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Settings that differ from their defaults and belong to what was not chosen."""
    chosen = getattr(config, chooser)
    for name in sorted(_owned(owners) - owners[chosen].keys()):
        value = getattr(config, name)
        if value != getattr(OptimizerConfig(), name):
            using = " or ".join(owner for owner in owners if name in owners[owner])
            yield (
                f"optimizer.{name}={value} has no effect with optimizer.{chooser}={chosen}; leave "
                f"it out, or use --optimizer.{chooser} {using}"
            )


def _owned(owners: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {name for own in owners.values() for name in own}


assert set(DEFAULTS) == set(get_args(OptimizerName)) and set(COURSES) == set(get_args(Course))
