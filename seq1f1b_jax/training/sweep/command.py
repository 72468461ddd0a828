"""`plan sweep`: compile and time a few configurations on the device at hand, predicted beside.

JAX is imported once the environment is set, as in `train.py`.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from seq1f1b_jax.cli.measuring import OptionParser, choose_devices, measure
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.host.importing import ctrl_c_ends_imports
from seq1f1b_jax.paths import resolve, shown
from seq1f1b_jax.plan.draw import check_picture

MAX_RUNS = 200
POLICIES = ("none", "selective", "matmuls", "full")


@dataclass(frozen=True)
class SweepOptions:
    """What is varied, and where the figures go; an empty tuple: as the run has it.

    Attributes:
      chunks: numbers of chunks.
      schedules: names.
      recompute: policies.
      microbatches: numbers of them.
      steps: to time of each, beside the first, which compiles.
      to: CSV file; empty: none.
      draw: picture; empty: none.
    """

    chunks: tuple[int, ...]
    schedules: tuple[str, ...]
    recompute: tuple[str, ...]
    microbatches: tuple[int, ...]
    steps: int
    to: str
    draw: str


def main(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command line.

    Args:
      arguments: own options, and the settings of `train.py`.
      environment: variables of this process; those that JAX reads are set in it.

    Returns:
      The exit status: 2 after bad input, reported in one line on stderr; 130 after a Ctrl-C, which
      leaves what was measured before.
    """
    return measure(
        "sweep", arguments, parse_options=parse_options,
        run=lambda config, options: run(config, options, environment),
        interrupted="what was measured is above",
    )


def parse_options(arguments: Sequence[str]) -> tuple[SweepOptions, list[str]]:
    """The command's own options, and what is left for `train.py`'s parser.

    Raises:
      UserError: bad input.
      SystemExit: `--help` was given, and printed.

    Example:
      >>> options, rest = parse_options(["--chunks", "1,2,4", "--mesh.pipe", "4"])
      >>> options.chunks, options.schedules, rest
      ((1, 2, 4), (), ['--mesh.pipe', '4'])
    """
    parser = OptionParser(
        prog="python -m seq1f1b_jax.plan sweep", description=__doc__, allow_abbrev=False,
        epilog="All settings of train.py are taken too (python train.py --help); they hold for "
        "every configuration. Tokens are random, and nothing is saved of the models.",
    )
    lists = {"chunks": "numbers of chunks", "schedules": "names", "recompute": "policies",
             "microbatches": "numbers of microbatches"}  # fmt: skip
    for name, what in lists.items():
        parser.add_argument(f"--{name}", metavar="A,B,...", default="", help=f"{what} to vary")
    parser.add_argument("--steps", type=int, default=3, help="steps to time of each (without: 3)")
    parser.add_argument("--to", metavar="FILE", default="", help="CSV file to write")
    parser.add_argument("--draw", metavar="FILE", default="", help="picture: .svg, .png or .pdf")
    given, rest = parser.parse_known_args([*arguments])
    if given.steps < 1:
        raise UserError(f"--steps {given.steps}: must be at least 1")
    recompute = _words(given.recompute)
    if wrong := [name for name in recompute if name not in POLICIES]:
        raise UserError(f"--recompute {wrong[0]}: use {', '.join(POLICIES)}")
    if given.to and not given.to.endswith(".csv"):
        raise UserError(f"--to {shown(given.to)}: the figures are CSV; end the name in .csv")
    if given.to and not resolve(given.to).parent.is_dir():
        raise UserError(f"--to {shown(given.to)}: name a file in a folder that exists")
    if given.draw:
        check_picture(given.draw)
    options = SweepOptions(
        _numbers(given.chunks, "--chunks"), _words(given.schedules), recompute,
        _numbers(given.microbatches, "--microbatches"), given.steps, given.to, given.draw,
    )
    return options, rest


def configurations(config: Config, options: SweepOptions) -> list[Config]:
    """Every combination of what is varied.

    Raises:
      UserError: a combination that cannot run, or too many of them.
    """
    schedule, executor = config.schedule, config.executor
    varied = (
        options.schedules or (schedule.name,), options.chunks or (schedule.num_chunks,),
        options.recompute or (executor.recompute,),
        options.microbatches or (schedule.num_microbatches,),
    )
    found = []
    for name, chunks, recompute, microbatches in product(*varied):
        one = replace(
            config,
            schedule=replace(
                schedule, name=name, num_chunks=chunks, num_microbatches=microbatches,
                chunk_lengths=schedule.chunk_lengths if not options.chunks else None,
            ),
            executor=replace(executor, recompute=recompute),
        )
        validate(one)
        found.append(one)
    if len(found) > MAX_RUNS:
        raise UserError(f"these are {len(found)} configurations, of at most {MAX_RUNS}; vary less")
    return found


def run(
    config: Config, options: SweepOptions, environment: MutableMapping[str, str]
) -> int:
    """Choose the devices as the run does, measure, print and write."""
    validate(config)
    found = configurations(config, options)
    choose_devices(config, environment)
    with ctrl_c_ends_imports():
        from seq1f1b_jax.training.sweep.figures import draw, write_csv
        from seq1f1b_jax.training.sweep.run import sweep

    rows = sweep(found, num_steps=options.steps)
    if options.to:
        write_csv(rows, options.to)
        print(f"figures   {options.to}")
    if options.draw:
        draw(rows, options.draw)
        print(f"picture   {options.draw}")
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str, name: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in _words(text))
    except ValueError:
        numbers = (0,)
    if numbers and min(numbers) < 1:
        raise UserError(
            f"{name} {text!r}: whole numbers above 0 with commas between, such as 1,2,4"
        )
    return numbers
