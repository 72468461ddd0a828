"""Recipes: finding a configuration file and refusing a bad one with the line that explains it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from seq1f1b_jax.cli.keys import describe, flatten, nearest, sections, setting_types
from seq1f1b_jax.cli.renamed import RENAMED
from seq1f1b_jax.config import UserError


def find_recipe(name: str, recipes: Path) -> Path:
    """The file that `--config name` means: a path, or the bare name of a packaged recipe.

    Args:
      name: a path, or a name with or without `mesh_configs/` before and `.yaml` after it.
      recipes: folder of the packaged recipes.

    Raises:
      UserError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = recipes / f"{path.name.removesuffix('.yaml')}.yaml"
    if str(path.parent) in (".", "mesh_configs") and packaged.is_file():
        return packaged
    if path.is_dir():
        raise UserError(f"--config {name} is a folder; name a YAML file in it")
    known = sorted(recipe.stem for recipe in recipes.glob("*.yaml"))
    close = get_close_matches(path.stem, known, n=1)
    cure = f"did you mean {close[0]}?" if close else f"packaged recipes are {', '.join(known)}"
    raise UserError(f"--config {name} does not exist; {cure}")


def check_recipe(path: Path) -> None:
    """Refuse a file that is not YAML, or that holds a setting that does not exist.

    Raises:
      UserError: naming the file, the setting, and the nearest one that exists.
    """
    tree, types, groups = _load(path), setting_types(), sections()
    for key, value in flatten(tree):
        if key in groups and value in (None, {}):
            raise UserError(f"{path}: section {key!r} is empty; leave it out or put settings in it")
        if key in groups:
            raise UserError(f"{path}: {key}={value!r} must be a section of settings, not a value")
        if key not in types:
            raise UserError(f"{path}: unknown setting {key!r}{suggestion(key, types)}")
        if value is None and "null" not in describe(types[key]):
            raise UserError(f"{path}: {key}=null must be {describe(types[key])}")


def suggestion(key: str, known: Mapping[str, Any], *, dashes: str = "") -> str:
    """The end of an error about an unknown name: what it most likely meant."""
    if key in RENAMED:
        return f"; it is now {dashes}{RENAMED[key]}"
    near = nearest(key, known)
    if near is None:
        return "; --help lists all settings"
    return f"; did you mean {dashes + near!r}?"


def _load(path: Path) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; name a YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, Mapping):
        given = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise UserError(f"{path} {given}; a recipe is a tree such as 'model: {{num_layers: 8}}'")
    return tree
