"""A job: what a command works on, with its devices counted and its model built."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from seq1f1b_jax.cli import to_yaml
from seq1f1b_jax.cli.devices import count_ranks, mend_command, probe_machine
from seq1f1b_jax.config import Config, DistributedConfig, UserError
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.distributed import Group
from seq1f1b_jax.host.stdout import Output
from seq1f1b_jax.pipeline import Stage
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.job import Job
from seq1f1b_jax.training.resolve import described, export_params


def make_job(
    config: Config, stage: Stage, *, watchdog: Watchdog, group: Group, say: Callable[[str], None],
    output: Output, environment: Mapping[str, str] | None = None, source: Any = None,
) -> Job:
    """What the commands work on.

    Args:
      config: with the sizes of the model; the devices are counted here.
      stage: the model.
      watchdog: watches the steps.
      group: the processes.
      say: prints a line.
      output: where what is printed goes.
      environment: variables of this process, compared between those of a run.
      source: the checkpoint that the run starts from (`models.hf.Source`), or None.

    Raises:
      UserError: too few devices, or settings that do not fit together.
    """
    config = with_devices(config)
    validate(config)
    return Job(
        config, to_yaml(replace(config, distributed=DistributedConfig())), stage,
        source=source and described(source), export=partial(export_params, stage, config, source),
        watchdog=watchdog, group=group, say=say, output=output, environment=environment or {},
    )


def with_devices(config: Config) -> Config:
    """`mesh.pipe` as a number that the devices which are present give."""
    try:
        present = len(jax.devices())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"JAX cannot start: {reason}; {mend_command(probe_machine())}") from error
    stages = count_ranks(config.mesh, present, platform=jax.default_backend())
    return replace(config, mesh=replace(config.mesh, pipe=stages))
