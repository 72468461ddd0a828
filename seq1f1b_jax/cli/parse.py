"""The command line: `[COMMAND [RUN ...]] [--config RECIPE] [--SECTION.NAME VALUE ...]`."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from seq1f1b_jax.cli.keys import describe, is_setting, resolve_paths, sections, setting_types
from seq1f1b_jax.cli.options import (
    COMMANDS,
    WORDS,
    ExportOptions,
    Options,
    ReportOptions,
    option_problem,
    option_types,
)
from seq1f1b_jax.cli.recipes import (
    check_recipe,
    find_recipe,
    kept_settings,
    run_of,
    run_recipe,
    suggestion,
)
from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.cli.tokens import (
    BARE_FLAGS,
    SHORTHANDS,
    split_command,
    split_config,
    split_words,
)
from seq1f1b_jax.config import Config, ModelConfig, UserError
from seq1f1b_jax.paths import as_typed, resolve

DEFAULT_RECIPE = "default"
OF_A_RUN = ("evaluate", "generate", "export")
"""Commands that take the configuration which the run's folder keeps."""
OWN_MODEL = ("--model.preset", "--model.source", "--model.stage")
"""A command line that names its model does not use the one in the run's folder."""


@dataclass(frozen=True)
class Invocation:
    """What the user requested.

    Attributes:
      command: one of `COMMANDS`.
      config: the settings: paths are absolute, preset and devices are not looked up yet.
      options: what the command takes beside the configuration.
      print_config: whether to print the configuration instead of running.
      typed: what was typed for each absolute path.
    """

    command: str
    config: Config
    options: Options
    print_config: bool
    typed: Mapping[str, str] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a line in which paths appear as they were typed."""
        print(as_typed(text, self.typed), flush=True)


def parse(arguments: Sequence[str], *, recipes: Path) -> Invocation:
    """Read a command line; settings on it win over recipes, in any order.

    Args:
      arguments: the command line without the program's name.
      recipes: folder of the packaged recipes. Without `--config` its `default.yaml` is used, and by
        the commands that work on a run the configuration that the run's folder keeps.

    Returns:
      The invocation; its values have the right types, their combination is not checked yet.

    Raises:
      UserError: bad input, in one line.
      SystemExit: `--help` was given, and printed.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax import mesh_configs
      >>> recipes = Path(mesh_configs.__file__).parent
      >>> parse(["--model.num_layers", "12"], recipes=recipes).config.model.num_layers
      12
    """
    command, arguments = split_command(arguments)
    words, arguments = split_words(arguments) if command in WORDS else ([], arguments)
    names, settings = split_config([SHORTHANDS.get(token, token) for token in arguments])
    types = setting_types() | option_types(command)
    _check_names(settings, types)
    _check_model(settings)
    given = {str(find_recipe(name, recipes)): name for name in names}
    paths = [*given] or [str(find_recipe(DEFAULT_RECIPE, recipes))]
    with refusals(given):
        values = _values(command, [_checked(path) for path in paths], settings)
        if given and run_of(Path(paths[-1])) and not _names(settings, "--train.output_dir"):
            # the run that it is of, also where that was moved
            settings = [*settings, f"--train.output_dir={Path(given[paths[-1]]).parent}"]
            values = _values(command, [_checked(path) for path in paths], settings)
    folder = values["train"].output_dir
    if command in OF_A_RUN and not given and not _names(settings, *OWN_MODEL):
        if (recipe := run_recipe(folder)) is not None:
            settings = [*settings, f"--train.output_dir={folder}"]  # it may have been moved
            with refusals({str(recipe.parent): folder}):
                check_recipe(recipe, kept=True)
                values = _values(command, [kept_settings(recipe)], settings)
    options = COMMANDS[command](**{key: values[key] for key in option_types(command)})
    if problem := option_problem(options):
        raise UserError(problem)
    config = _only_model(Config(**{name: values[name] for name in sections()}))
    config = _only_source(config, settings)
    config, typed = resolve_paths(config)
    if isinstance(options, (ExportOptions, ReportOptions)) and options.to is not None:
        to = str(resolve(options.to))
        typed, options = {**typed, to: options.to}, replace(options, to=to)
    if isinstance(options, ReportOptions):
        runs = _runs(words, settings)
        typed, options = {**typed, **runs}, replace(options, runs=tuple(runs))
    return Invocation(command, config, options, values["print_config"], typed)


def _values(command: str, recipes: Sequence[str], settings: Sequence[str]) -> Namespace:
    """Sections and options by name: those of the recipes, then those of the command line.

    Args:
      command: one of `COMMANDS`.
      recipes: YAML, or paths of it; later ones win.
      settings: of the command line.
    """
    parser = _parser(command)
    ordered = [token for recipe in recipes for token in ("--config", recipe)] + [*settings]
    try:
        return parser.instantiate(parser.parse_args(ordered))
    except ArgumentError as error:
        types = setting_types() | option_types(command)
        raise UserError(_one_line(error, types)) from None


def _runs(words: Sequence[str], settings: Sequence[str]) -> dict[str, str]:
    """The folders that `report` shows, absolute, with what was typed for each."""
    if words and _names(settings, "--train.output_dir"):
        raise UserError(
            f"{words[0]!r} and --train.output_dir both name a run; name every run as a word: "
            "report RUN RUN"
        )
    runs = {str(resolve(word)): word for word in words}
    if len(runs) < len(words):
        raise UserError(f"report {' '.join(words)} names a run twice; name it once")
    return runs


def _checked(path: str) -> str:
    """A recipe as `_values` takes it: its path, or what a run has kept."""
    kept = run_of(Path(path)) is not None
    check_recipe(Path(path), kept=kept)
    return kept_settings(Path(path)) if kept else path


def _names(settings: Sequence[str], *names: str) -> bool:
    return any(token.partition("=")[0] in names for token in settings)


def to_yaml(config: Config) -> str:
    """The whole tree as YAML that `--config` reads back to an equal configuration."""
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def _parser(command: str) -> ArgumentParser:
    others = [f"{name}: {_effect(cls)}" for name, cls in COMMANDS.items()]
    parser = ArgumentParser(
        prog="train.py",
        usage=f"train.py [{' | '.join(COMMANDS)}]{_words(command)} [--config RECIPE] "
        "[--SECTION.NAME VALUE ...]",
        description=f"{command}: {_effect(COMMANDS[command])}",
        epilog="Commands: " + " ".join(others) + " COMMAND --help lists its own options first.",
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
        print_config=None,
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file or name of a packaged recipe; may be repeated, later ones win; "
        f"without it: {DEFAULT_RECIPE}",
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the whole configuration and stop"
    )
    skipped = {WORDS[command][0]} if command in WORDS else set()
    parser.add_class_arguments(COMMANDS[command], None, skip=skipped)
    for name, cls in sections().items():
        parser.add_class_arguments(cls, name)
    return parser


def _effect(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _words(command: str) -> str:
    return f" [{WORDS[command][1]} ...]" if command in WORDS else ""


def _check_names(settings: Sequence[str], types: Mapping[str, Any]) -> None:
    for token in settings:
        name = token.partition("=")[0]
        if not name.startswith("--") or name in BARE_FLAGS and name not in SHORTHANDS:
            continue
        key = name.removeprefix("--")
        if is_setting(key, types) or key in sections():
            continue
        owners = [command for command in COMMANDS if key in option_types(command)]
        if owners:
            raise UserError(f"{name} belongs to a command; use train.py {owners[0]} {name} ...")
        raise UserError(f"unknown setting {name!r}{suggestion(key, types, dashes='--')}")


def _check_model(settings: Sequence[str]) -> None:
    """Refuse sizes beside a custom model; those of a recipe are dropped (`_only_model`)."""
    names = [token.partition("=")[0] for token in settings if token.startswith("--model.")]
    others = [name for name in names if name.split(".")[1] not in ("stage", "settings")]
    if "--model.stage" in names and others:
        raise UserError(
            f"{others[0]} is a setting of the built-in families, and --model.stage names another "
            "model; set its own with --model.settings.NAME VALUE"
        )


def _only_model(config: Config) -> Config:
    """Without the sizes of our families that a recipe names below a custom model."""
    model = config.model
    if model.stage is None:
        return config
    kept = {name: getattr(model, name) for name in ("stage", "settings", "source")}
    return replace(config, model=ModelConfig(**kept))


def _only_source(config: Config, settings: Sequence[str]) -> Config:
    """Without the sources of a recipe, where the command line names one."""
    if config.data.sources is None or not _names(settings, "--data.source"):
        return config
    if _names(settings, "--data.sources"):
        raise UserError(
            "--data.source and --data.sources both say what to train on; give one of them"
        )
    return replace(config, data=replace(config.data, sources=None))


def _one_line(error: ArgumentError, types: Mapping[str, Any]) -> str:
    """An error of the parser as setting, value and what would be right."""
    message = str(error)
    found = re.search(r'Parser key "([^"]+)"', message)
    key = found[1] if found else ""
    value = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
    given = f"={value[1]!r}" if value else ""
    if key in types:
        return f"{key if '.' in key else '--' + key}{given} must be {describe(types[key])}"
    if key in sections():
        return f"--{key} is a group of settings; set one of them: --{key}.NAME VALUE"
    words = re.search(r"unrecognized arguments: (.*)", message, re.IGNORECASE)
    if words:
        near = get_close_matches(words[1].partition(" ")[0], COMMANDS, n=1)
        commands = ", ".join(COMMANDS)
        cure = f"did you mean {near[0]!r}?" if near else "see --help"
        return f"{words[1]!r} is neither a command ({commands}) nor a setting; {cure}"
    return " ".join(message.split())


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items()}
    return list(tree) if isinstance(tree, tuple) else tree
