"""What other commands than `train` take of a run's configuration: not the order of work."""

from dataclasses import replace

from seq1f1b_jax.config import Config, ScheduleConfig, UserError

ALONE = ("generate", "export")
"""Commands that run on one device of one process."""


def for_command(command: str, config: Config) -> Config:
    """The configuration of a command that looks at a run; that of `train` stays as it is.

    `generate` and `export` run on one device, regardless of the run's mesh.

    Raises:
      UserError: a custom model is to be exported.

    Example:
      >>> from seq1f1b_jax.cli.for_command import for_command
      >>> from seq1f1b_jax.config import Config, MeshConfig
      >>> for_command("generate", Config(mesh=MeshConfig(pipe=8))).mesh.pipe
      1
    """
    if command == "export" and config.model.stage is not None:
        raise UserError(
            f"export writes models of the families that transformers knows, and model.stage="
            f"{config.model.stage} is a custom class; its parameters are Trainer.params() "
            "(docs/own_model.md)"
        )
    if command in ALONE:
        alone = replace(config.mesh, pipe=1, data=1, tensor=1, sequence_parallel=False)
        return _in_any_order(replace(config, mesh=alone))
    if command == "evaluate" and config.schedule.plan:
        return _in_any_order(config)
    if command == "evaluate":
        return replace(config, schedule=_unmeasured(config.schedule))
    return config


def check_count(command: str, count: int, found: str) -> None:
    """Refuse several processes for a command that is the work of one.

    Args:
      command: the command.
      count: processes that were started.
      found: how they were found.
    """
    if count > 1 and command in ALONE:
        raise UserError(
            f"{command} is the work of one process, and {count} were started (by {found}); start "
            "one, without the launcher and --distributed.*, or set distributed.detect=never"
        )


def _in_any_order(config: Config) -> Config:
    """Without the training's order of work: a checkpoint does not depend on it.

    The file of a plan may be gone, and its stages are not those of another command.
    """
    schedule = replace(
        _unmeasured(config.schedule), name=ScheduleConfig().name, plan=None, stages_per_rank=None,
        extra_warmup=0, short_warmup=False,
    )
    mesh = replace(config.mesh, layers_per_stage=None)
    return replace(config, schedule=schedule, mesh=mesh)


def _unmeasured(schedule: ScheduleConfig) -> ScheduleConfig:
    """Without measured costs, whose file may be gone: losses do not depend on the cut."""
    if schedule.partition != "measured":
        return schedule
    return replace(schedule, partition="balanced", costs=None)
