"""What the compiled H100 program of a training step does, counted in its text; no GPU is needed.

    python -m benchmarks.h100_program                           1b, 7b and 30b, about 1 minute each
    python -m benchmarks.h100_program --setting 7b --top 20     and the kernels with the most bytes
    python -m benchmarks.h100_program --setting 7b --preset command_buffers
    python -m benchmarks.h100_program --setting 7b --keep runs/7b   compile once, count again

Compiled, never run; a stage has two layers unless `--layers` says otherwise. Times are a roofline:
every kernel at the speed of its matmuls or of its bytes, with the constants that are printed. Needs
the extra `aot`. What the figures mean: docs/benchmarks.md.
"""

import argparse
import os
import shlex
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.h100.settings import SETTINGS, Setting

MAIN = "7b"
"""The setting whose values have no prefix in the last line."""


def main(arguments=None) -> int:
    """Compile the settings, count, print; the exit status is 0."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as dumps:
        os.environ["JAX_PLATFORMS"] = "cpu"  # both are read when JAX is first imported
        os.environ["XLA_FLAGS"] = _flags(options, Path(dumps))
        reports = {
            name: _count(name, setting, options, Path(dumps))
            for name, setting in _chosen(options).items()
        }
    from benchmarks.common.report import finish
    from benchmarks.h100.roofline import CONSTANTS

    values: dict[str, Any] = {}
    for name, (setting, report) in reports.items():
        prefix = "" if name == MAIN else f"{name}_"
        found = {**report.values, "setting": asdict(setting), "actions": report.rows}
        values |= {prefix + key: value for key, value in found.items()}
    flags = {"preset": options.preset, "xla_flags": options.xla_flags}
    finish({**values, **flags, "constants": dict(CONSTANTS)}, path=options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    from seq1f1b_jax.cli.xla_presets import PRESETS
    from seq1f1b_jax.schedule.simulation.flops import RECOMPUTE_POLICIES

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.h100_program", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--setting", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--attention", help="a backend of seq1f1b_jax.ops.attention")
    parser.add_argument("--recompute", choices=RECOMPUTE_POLICIES)
    parser.add_argument("--layers", type=int, help="layers of a stage")
    parser.add_argument("--chunks", type=int, help="chunks of a sequence")
    parser.add_argument("--unroll", type=_layers, help="ExecutorOptions.unroll: layers, or auto")
    parser.add_argument("--halves", action="store_true", default=None,
                        help="ExecutorOptions.halves, with the flag that train.py sets for it")
    parser.add_argument("--offload", type=float, help="ExecutorOptions.offload")
    parser.add_argument("--preset", choices=list(PRESETS), default="default", help="of XLA flags")
    parser.add_argument("--xla-flags", default="", help="more of them, as in XLA_FLAGS")
    parser.add_argument("--top", type=int, default=0, help="kernels with the most bytes to list")
    parser.add_argument("--keep", type=Path, help="folder for the texts; read if they are there")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/h100_program.json")
    return parser


def _layers(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _flags(options, dumps: Path) -> str:
    """The preset's flags, those given, and the dump of thunks."""
    from seq1f1b_jax.cli.xla_presets import PRESETS, flags_of_executor

    needed = flags_of_executor(halves=bool(options.halves), offload=bool(options.offload))
    chosen = {**PRESETS[options.preset], **needed}
    preset = [f"--{name}={value}" for name, value in chosen.items()]
    dump = ["--xla_dump_hlo_as_text", "--xla_dump_hlo_module_re=jit_train_step"]
    given = shlex.split(f"{os.environ.get('XLA_FLAGS', '')} {options.xla_flags}")
    return " ".join([*preset, *given, f"--xla_dump_to={dumps}", *dump])


def _chosen(options) -> dict[str, Setting]:
    wanted = {
        "attention": options.attention, "recompute": options.recompute, "layers": options.layers,
        "num_chunks": options.chunks, "unroll": options.unroll,
        "halves": options.halves, "offload": options.offload,
    }  # fmt: skip
    changes = {name: value for name, value in wanted.items() if value is not None}
    return {name: replace(SETTINGS[name], **changes) for name in options.setting}


def _count(name: str, setting: Setting, options, dumps: Path):
    """Compile or read a setting, and print its tables."""
    from benchmarks.common.report import show
    from benchmarks.h100.count import Sizes, count
    from benchmarks.h100.roofline import CONSTANTS
    from benchmarks.h100.settings import build, compile_step, load, save
    from benchmarks.h100.sources import largest

    step = build(setting)
    folder = None if options.keep is None else options.keep / name
    made = f"{setting} --preset {options.preset} --xla-flags={options.xla_flags!r}"
    compiled = None if folder is None else load(folder, made=made)
    if compiled is None:
        compiled = compile_step(step, dumps=dumps)
        if folder is not None:
            save(compiled, folder, made=made)
    sizes = Sizes.of(step)
    report = count(compiled, sizes)
    show(f"{name}: {setting}\nactions of a tick, {sizes.layers} layers", report.rows)
    if options.top:
        rows = largest(
            report.program, report.launches(), lengths=sizes.lengths, count=options.top
        )
        show(f"{name}: kernels without matmuls, by source line", rows)
    show(f"{name}: constants of the estimate", [dict(CONSTANTS)])
    show(f"{name}: one layer, one sequence", [
        {"figure": key, "value": value} for key, value in report.values.items()
    ])  # fmt: skip
    return setting, report


if __name__ == "__main__":
    raise SystemExit(main())
