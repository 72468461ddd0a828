"""Train, evaluate or sample a transformer: wires configuration, model and training together.

Example:
    python train.py --config mesh_configs/default.yaml --model.num_layers 12
    python train.py evaluate
    python train.py generate --prompt "def main"
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seq1f1b_jax.cli import Invocation, parse, to_yaml
from seq1f1b_jax.cli.devices import (
    choose_platform,
    jax_environment,
    mend_command,
    probe_machine,
)
from seq1f1b_jax.config import Config, MeshConfig, ScheduleConfig, UserError, resolve_model
from seq1f1b_jax.config_checks import validate

if TYPE_CHECKING:
    from seq1f1b_jax.pipeline.stage import Stage

BYTE_VOCABULARY = 256


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
      The exit status: 2 after bad input or bad luck, told in one line on stderr; 130 after a Ctrl-C
      outside the steps (in a step it finishes the step, saves and ends with 0).
    """
    try:
        invocation = parse(
            sys.argv[1:] if arguments is None else arguments, recipes=_recipes_folder()
        )
        if invocation.print_config:
            print(to_yaml(_with_model(invocation.config)), end="")
            return 0
        return _run(invocation)
    except ValueError as error:
        if not _is_ours(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what was saved before is kept", file=sys.stderr)
        return 130


def _run(invocation: Invocation) -> int:
    config = invocation.config
    if invocation.command == "generate":  # one device samples, whatever mesh the run was trained on
        config = _in_any_order(config)
        config = replace(config, mesh=replace(config.mesh, pipe=1))
    if invocation.command == "evaluate" and config.schedule.plan:
        config = _in_any_order(config)
    validate(config if config.model.preset else _with_model(config))
    _set_environment(config.mesh)
    config = _with_devices(_with_model(config))
    validate(config)
    stage = _stage(config)
    from models.generate import stream
    from seq1f1b_jax.training import main as training

    job = training.Job(config, to_yaml(config), stage, stream)
    return getattr(training, invocation.command)(job, **asdict(invocation.options))


def _in_any_order(config: Config) -> Config:
    """Without the training's order of work: a checkpoint does not depend on it.

    The file of a plan may be gone, and its stages are not those of another command.
    """
    order = ScheduleConfig()
    schedule = replace(
        config.schedule, name=order.name, plan=None, num_virtual=None, extra_warmup=0,
        short_warmup=False,
    )
    mesh = replace(config.mesh, layers_per_stage=None)
    return replace(config, schedule=schedule, mesh=mesh)


def _set_environment(mesh: MeshConfig) -> None:
    """Choose the devices; JAX reads these variables when it is first imported."""
    platform = choose_platform(mesh, machine=probe_machine(), environment=os.environ)
    os.environ.update(jax_environment(mesh, platform, environment=os.environ))
    if platform == "cpu":
        _leave_out_cuda_plugins()


def _leave_out_cuda_plugins() -> None:
    """Stand in for CUDA plugins: on the CPU they would be loaded, find no driver and say so."""
    for name in ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"):
        stand_in = ModuleType(name)
        vars(stand_in)["initialize"] = lambda: None
        sys.modules.setdefault(name, stand_in)


def _with_devices(config: Config) -> Config:
    """`mesh.pipe` as a number of devices that are present."""
    import jax

    try:
        present = len(jax.devices())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"JAX cannot start: {reason}; {mend_command(probe_machine())}") from error
    asked = config.mesh.pipe or present
    if asked > present:
        more = f"--mesh.virtual_devices {asked}" if jax.default_backend() == "cpu" else "more GPUs"
        raise UserError(
            f"mesh.pipe={asked} stages need as many devices, {present} are present; "
            f"use --mesh.pipe {present} or {more}"
        )
    return replace(config, mesh=replace(config.mesh, pipe=asked))


def _with_model(config: Config) -> Config:
    """The preset and what follows from the data filled in."""
    model = config.model
    preset = None
    if model.preset is not None:
        preset = _models().preset_fields(model.family, model.preset)
    model = resolve_model(model, preset)
    if model.vocab_size is None and not config.data.source.endswith(".bin"):
        model = replace(model, vocab_size=BYTE_VOCABULARY)
    if model.max_positions is None:
        model = replace(model, max_positions=config.data.seq_len)
    return replace(config, model=model)


def _stage(config: Config) -> Stage:
    return _models().build_stage(**asdict(config.model))


def _models() -> Any:
    """Our package `models`; the name is common, so another one may stand before it on the path."""
    import models

    if not getattr(models, "__seq1f1b__", False):
        found = getattr(models, "__file__", None) or list(models.__path__)[0]
        raise UserError(
            f"'models' is another package ({found}); run from the folder of train.py, "
            "or take that path out of PYTHONPATH"
        )
    return models


def _recipes_folder() -> Path:
    spec = find_spec("mesh_configs")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package 'mesh_configs' is missing; reinstall seq1f1b-jax")
    return Path(spec.submodule_search_locations[0])


def _is_ours(error: ValueError) -> bool:
    """Whether our own code raised it for the user; any other ValueError is a defect."""
    if isinstance(error, UserError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return module.partition(".")[0] in ("seq1f1b_jax", "models", "__main__", "train")


if __name__ == "__main__":
    sys.exit(main())
