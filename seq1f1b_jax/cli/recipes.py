"""Recipes: finding a configuration file and refusing a bad one with the line that explains it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from seq1f1b_jax.cli.keys import describe, flatten, is_setting, nearest, sections, setting_types
from seq1f1b_jax.cli.renamed import RENAMED, SAME, model_name, with_positions
from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import RUN_CONFIG, one_line, resolve

MAX_VALUES = 10_000
"""In a recipe, as written out: an alias of an alias of ... multiplies them."""


def packaged_recipes() -> Path:
    """The folder of the recipes that come with the package.

    Raises:
      UserError: it is missing.
    """
    spec = find_spec("seq1f1b_jax.mesh_configs")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package 'seq1f1b_jax.mesh_configs' is missing; reinstall seq1f1b-jax")
    return Path(spec.submodule_search_locations[0])


def find_recipe(name: str, recipes: Path) -> Path:
    """The file that `--config name` means: a path, or the bare name of a packaged recipe.

    Args:
      name: a path, or a name with or without `mesh_configs/` before and `.yaml` after it.
      recipes: folder of the packaged recipes.

    Raises:
      UserError: there is no such file.
    """
    path, found = Path(name), resolve(name)
    try:
        if found.is_file():
            return found
    except OSError as error:  # of a name that no file can have
        raise UserError(f"--config {one_line(name)[:80]} ... {error.strerror}") from None
    packaged = recipes / f"{path.name.removesuffix('.yaml')}.yaml"
    if str(path.parent) in (".", "mesh_configs") and packaged.is_file():
        return packaged
    if found.is_dir():
        raise UserError(f"--config {name} is a folder; name a YAML file in it")
    known = sorted(recipe.stem for recipe in recipes.glob("*.yaml"))
    close = get_close_matches(path.stem, known, n=1)
    cure = f"did you mean {close[0]}?" if close else f"packaged recipes are {', '.join(known)}"
    raise UserError(f"--config {name} does not exist; {cure}")


def run_recipe(folder: str) -> Path | None:
    """The configuration that the run in `folder` keeps, or None where there is none.

    Args:
      folder: `train.output_dir` as it was typed.
    """
    path = resolve(folder) / RUN_CONFIG if folder.strip() else None
    return path if path is not None and path.is_file() else None


def kept_settings(path: Path) -> str:
    """What a run has kept, as YAML: under today's names, without settings that exist no more.

    A run stays readable: those without a successor are of training alone. (A recipe that
    someone writes is refused.)
    """
    tree: dict[str, Any] = {}
    for old, value in _load(path):
        key = SAME.get(old, old)
        *groups, name = key.split(".")
        if key == "model.stage":
            value = model_name(value)
        if key not in RENAMED:
            reduce(lambda node, group: node.setdefault(group, {}), groups, tree)[name] = value
    if "model" in tree:
        tree["model"] = with_positions(tree["model"])
    return yaml.safe_dump(tree)


def run_of(recipe: Path) -> Path | None:
    """The folder of the run that has kept `recipe` as its configuration; None of other recipes."""
    folder = recipe.parent
    is_kept = recipe.name == RUN_CONFIG and (folder / "checkpoints").is_dir()
    return folder if is_kept else None


def check_recipe(path: Path, *, kept: bool = False) -> None:
    """Refuse a file that is not YAML, or that holds a setting that does not exist.

    Args:
      path: of the file.
      kept: whether a run has written it, which may have known settings by other names.

    Raises:
      UserError: naming the file, the setting, and the nearest one that exists.
    """
    types, groups = setting_types(), sections()
    for key, value in _load(path):
        if kept and key in RENAMED:
            continue
        if key in groups and value in (None, {}):
            raise UserError(f"{path}: section {key!r} is empty; leave it out or put settings in it")
        if key in groups:
            raise UserError(f"{path}: {key}={value!r} must be a section of settings, not a value")
        if not is_setting(key, types):
            raise UserError(f"{path}: unknown setting {key!r}{suggestion(key, types)}")
        if value is None and key in types and "null" not in describe(types[key]):
            raise UserError(f"{path}: {key}=null must be {describe(types[key])}")


def suggestion(key: str, known: Mapping[str, Any], *, dashes: str = "") -> str:
    """The end of an error about an unknown name: what it most likely meant."""
    if key in RENAMED:
        return f"; it is now {dashes}{RENAMED[key]}"
    near = nearest(key, known)
    if near is None:
        return "; --help lists all settings"
    return f"; did you mean {dashes + near!r}?"


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, of which PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise UserError(f"{self.name}: {key!r} appears twice in the section of line {line}")
        return super().construct_mapping(node, deep)


def _refuse_many(path: Path, tree: Any) -> None:
    """Refuse a recipe whose aliases expand to more than any recipe holds."""
    todo, found = [tree], 0
    while todo:
        value = todo.pop()
        inner = value.values() if isinstance(value, Mapping) else value
        todo += inner if isinstance(value, (Mapping, list, tuple)) else ()
        found += 1
        if found > MAX_VALUES:
            raise UserError(
                f"{path} holds more than {MAX_VALUES:,} values once its aliases are written "
                "out; a recipe has one for each setting"
            )


def _load(path: Path) -> list[tuple[str, Any]]:
    """Dotted name and value of everything in the file."""
    try:
        with path.open(encoding="utf-8") as file:
            tree = yaml.load(file, _Loader)
        _refuse_many(path, tree)
        if isinstance(tree, Mapping):
            return list(flatten(tree))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8; name a YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:  # or an alias of its own parent
        raise UserError(f"{path} is nested too deep; a recipe has sections of settings") from None
    except UserError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError) as error:  # !!int x, 2026-13-45
        raise UserError(
            f"{path} holds a value that YAML's own rules cannot read ({error}); put it in quotes"
        ) from None
    given = "is empty" if tree is None else f"holds a {type(tree).__name__}"
    raise UserError(f"{path} {given}; a recipe is a tree such as 'model: {{num_layers: 8}}'")
