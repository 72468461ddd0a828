"""A custom model by its name: made from the configuration, and described by one."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from seq1f1b_jax.config import ModelConfig, UserError
from seq1f1b_jax.pipeline import Stage, check_stage
from seq1f1b_jax.pipeline.stage import windows_of
from seq1f1b_jax.schedule.user_code import import_named, one_line_refusal

SIZES = (
    "num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "tied",
)  # fmt: skip


def load_stage(name: str, settings: Mapping[str, Any]) -> Stage:
    """The stage that a class makes from its settings, checked against the protocol.

    The class is searched on Python's path and in the working directory.

    Args:
      name: `package.module:Class`, or of any function that returns a stage.
      settings: arguments by name; lists become tuples, so that the stage can be hashed.

    Raises:
      UserError: no such module or class, or settings that it does not take.
      ValueError: the stage breaks a rule of the protocol.

    Example:
      >>> from seq1f1b_jax.training.custom_stage import load_stage
      >>> load_stage("models:build_stage", {"family": "llama", "preset": "tiny"}).num_layers
      2
    """
    arguments = {key: _hashable(value) for key, value in settings.items()}
    made = f"model.stage={name} cannot be made with model.settings={dict(settings)}"
    try:
        make = import_named(name, what="model.stage", kind="a class")
        if not callable(make):
            raise UserError(
                f"model.stage={name} is a {type(make).__name__}; name a class, which "
                "model.settings are given to"
            )
        with one_line_refusal(made):
            stage: Any = make(**arguments)
    except ValueError as error:
        raise UserError(str(error)) from error
    check_stage(stage)
    return stage


def model_of(stage: Stage, name: str | None = None, settings: Mapping[str, Any] | None = None):
    """The section `model` of a run of `stage`: name, settings and sizes.

    The default name and settings are those of its class and of its dataclass fields; values that
    JSON cannot hold become their `repr`.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.training.custom_stage import model_of
      >>> model = model_of(build_stage("llama", preset="tiny"))
      >>> model.stage, model.num_layers, model.settings["model_dim"]
      ('seq1f1b_jax.models.llama:Llama', 2, 32)
    """
    kind = type(stage)
    return ModelConfig(
        stage=name or re.sub("[<>]", "", f"{kind.__module__}:{kind.__qualname__}"),  # <locals>
        settings=_fields(stage) if settings is None else dict(settings),
        window=windows_of(stage)[0],
        **{size: getattr(stage, size) for size in SIZES},
    )


def with_defaults(stage: Stage, model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a section `model`, and the defaults of others where `stage` is of its class.

    Example:
      >>> from seq1f1b_jax.models.llama import Llama
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.training.custom_stage import with_defaults
      >>> stage = build_stage("llama", preset="tiny")
      >>> with_defaults(stage, {"stage": "x:Llama", "settings": {"window": 3}})["window"]
      3
    """
    if not is_dataclass(stage) or not f":{model['stage']}".endswith(f":{type(stage).__name__}"):
        return model["settings"]
    defaults = {f.name: _default(f) for f in fields(stage) if f.init}
    given = {name: _plain(value) for name, value in defaults.items() if value is not MISSING}
    return given | model["settings"]


def _fields(stage: Stage) -> dict[str, Any]:
    """Fields whose values are not their defaults.

    Raises:
      UserError: no dataclass: nobody knows what it was made with.
    """
    if not is_dataclass(stage):
        name = type(stage).__name__
        raise UserError(
            f"{name} is no dataclass, so a run cannot record what it was made with; declare it "
            f"with @dataclass(frozen=True), its settings as fields"
        )
    given = {field.name: getattr(stage, field.name) for field in fields(stage) if field.init}
    unusual = {f.name for f in fields(stage) if f.init and given[f.name] != _default(f)}
    return {name: _plain(value) for name, value in given.items() if name in unusual}


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
