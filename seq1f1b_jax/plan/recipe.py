"""A found configuration as a recipe: the settings that are not the defaults, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.paths import one_line, resolve


def recipe_text(config: Config, comments: Sequence[str]) -> str:
    """The settings that differ from the defaults, as `train.py --config` reads them.

    Args:
      config: of the run.
      comments: lines to put above them.

    Example:
      >>> from seq1f1b_jax.config import Config, MeshConfig
      >>> print(recipe_text(Config(mesh=MeshConfig(pipe=8)), ["eight ranks"]))
      # eight ranks
      mesh:
        pipe: 8
      <BLANKLINE>
    """
    tree = {}
    for section, defaults in asdict(Config()).items():
        given = asdict(getattr(config, section))
        if changed := _changed(given, defaults):
            tree[section] = changed
    head = "".join(f"# {line}\n" for line in comments)
    return head + yaml.safe_dump(tree, sort_keys=False)


def write_recipe(path: str, text: str) -> None:
    """Write a new file; an older one stays what it is.

    Raises:
      UserError: there is a file already, or it cannot be written.
    """
    check_new(path)
    try:
        with resolve(path).open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write --to {one_line(path)}: {error.strerror}") from error


def check_new(path: str) -> None:
    """Refuse a recipe that could not be written, before the work.

    Raises:
      UserError: there is a file already, or no folder for it.
    """
    file, shown = resolve(path), one_line(path)
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"--to {shown}: a recipe is a YAML file; use a name that ends in .yaml")
    if file.exists():
        raise UserError(f"--to {shown} exists already; choose another name, or remove it")
    if not file.parent.is_dir():
        folder = one_line(Path(path).parent)
        raise UserError(f"--to {shown}: {folder} is no folder; create it first")


def _changed(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Values that are not the defaults; of mappings in them likewise."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value == defaults[name]:
            continue
        if isinstance(value, dict) and isinstance(defaults[name], dict) and name == "rope":
            value = _changed(value, defaults[name])
        found[name] = list(value) if isinstance(value, tuple) else value
    return found
