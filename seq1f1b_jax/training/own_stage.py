"""A model of one's own by its name: made from the configuration, and written into one."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
from typing import Any

from seq1f1b_jax.config import ModelConfig, UserError
from seq1f1b_jax.paths import one_line
from seq1f1b_jax.pipeline import Stage, check_stage
from seq1f1b_jax.pipeline.checks.check_stage import MISTAKES
from seq1f1b_jax.pipeline.stage import window_of

SIZES = (
    "num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "tied",
)  # fmt: skip


def load_stage(name: str, settings: Mapping[str, Any]) -> Stage:
    """The stage that a class makes from its settings; it keeps the rules of the protocol.

    The class is looked for where Python looks, and in the working directory.

    Args:
      name: `package.module:Class`, or of any function that returns a stage.
      settings: arguments by name; lists are handed over as tuples, so that the stage can be hashed.

    Raises:
      UserError: no such module or class, or settings that it does not take.
      ValueError: the stage breaks a rule.

    Example:
      >>> from seq1f1b_jax.training.own_stage import load_stage
      >>> load_stage("models:build_stage", {"family": "llama", "preset": "tiny"}).num_layers
      2
    """
    make = _find(name)
    try:
        stage = make(**{key: _hashable(value) for key, value in settings.items()})
    except MISTAKES as error:
        raise UserError(
            f"model.stage={name} cannot be made with model.settings={dict(settings)}: "
            f"{_reason(error)}"
        ) from error
    check_stage(stage)
    return stage


def model_of(stage: Stage, name: str | None = None, settings: Mapping[str, Any] | None = None):
    """The section `model` of a run of `stage`: its name, its settings, and the sizes it tells.

    Without a name they are those of its class and of its dataclass fields; what JSON cannot hold
    stands there as Python shows it.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.training.own_stage import model_of
      >>> model = model_of(build_stage("llama", preset="tiny"))
      >>> model.stage, model.num_layers, model.settings["model_dim"]
      ('seq1f1b_jax.models.llama:Llama', 2, 32)
    """
    kind = type(stage)
    return ModelConfig(
        stage=name or re.sub("[<>]", "", f"{kind.__module__}:{kind.__qualname__}"),  # <locals>
        settings=_fields(stage) if settings is None else dict(settings),
        window=window_of(stage),
        **{size: getattr(stage, size) for size in SIZES},
    )


def _find(name: str) -> Any:
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except (ImportError, SyntaxError, *MISTAKES) as error:
        raise UserError(
            f"model.stage={name}: {module_name} cannot be imported ({_reason(error)}); it must be "
            "a module in the working directory, on PYTHONPATH, or installed"
        ) from error
    try:
        found = reduce(getattr, path.split("."), module)
    except AttributeError:
        close = get_close_matches(path, dir(module), n=1)
        cure = f"did you mean {close[0]!r}?" if close else "name a class in it"
        raise UserError(f"model.stage={name}: {module_name} has no {path!r}; {cure}") from None
    if not callable(found):
        raise UserError(
            f"model.stage={name} is a {type(found).__name__}; name a class, which model.settings "
            "are given to"
        )
    return found


def _fields(stage: Stage) -> dict[str, Any]:
    """Fields that are not as by default."""
    if not is_dataclass(stage):
        return {}
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


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(str(error).strip().partition(chr(10))[0])}"
