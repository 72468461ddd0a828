"""`plan profile`: time the actions of a run's stage on the device at hand, and write a table.

JAX is imported once the environment is set, as in `train.py`.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seq1f1b_jax.cli.measuring import OptionParser, choose_devices, measure
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.host.importing import ctrl_c_ends_imports
from seq1f1b_jax.paths import resolve, shown

DEFAULT_FILE = "costs.json"
DEFAULT_SECONDS = 30.0


@dataclass(frozen=True)
class ProfileOptions:
    """What the command takes beside the settings of a run.

    Attributes:
      to: file to write, absolute.
      typed: the same, as it was typed.
      lengths: of the chunks to time, in tokens; empty: around that of an even chunk.
      seconds: for timing, beside compilation.
      split: whether the halves of backwards are timed where the schedule has none.
    """

    to: Path
    typed: str
    lengths: tuple[int, ...]
    seconds: float
    split: bool


def main(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command line.

    Args:
      arguments: own options, and the settings of `train.py`.
      environment: variables of this process; those that JAX reads are set in it.

    Returns:
      The exit status: 2 after bad input, reported in one line on stderr; 130 after a Ctrl-C.
    """
    return measure(
        "profile", arguments, parse_options=parse_options,
        run=lambda config, options: run(config, options, environment),
        typed=lambda options: {str(options.to): options.typed},
        interrupted="nothing was written",
    )


def parse_options(arguments: Sequence[str]) -> tuple[ProfileOptions, list[str]]:
    """The command's own options, and what is left for `train.py`'s parser.

    Raises:
      UserError: bad input.
      SystemExit: `--help` was given, and printed.

    Example:
      >>> options, rest = parse_options(["--lengths", "512,1024", "--mesh.pipe", "4"])
      >>> options.lengths, options.to.name, rest
      ((512, 1024), 'costs.json', ['--mesh.pipe', '4'])
    """
    parser = OptionParser(
        prog="python -m seq1f1b_jax.plan profile", allow_abbrev=False,
        description="Time the actions of a run's stage on the device at hand, and write a table.",
        epilog="All settings of train.py are taken too (python train.py --help): profile with those"
        " of the run. On a GPU one device is enough (mesh.tensor of them, where layers are sharded)"
        ", whatever mesh.pipe is.",
    )
    parser.add_argument(
        "--to", metavar="FILE", default=DEFAULT_FILE, help=f"file to write; without: {DEFAULT_FILE}"
    )
    parser.add_argument(
        "--lengths", metavar="N,N,...", default="",
        help="tokens of the chunks to time; without: half, once and twice those of an even chunk",
    )
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS,
        help="for timing, beside compilation; five rounds are made in any case "
        f"(without: {DEFAULT_SECONDS:g})",
    )
    parser.add_argument(
        "--split", action="store_true", help="time I and W too, where the schedule has only B"
    )
    given, rest = parser.parse_known_args([*arguments])
    try:
        lengths = tuple(int(word) for word in given.lengths.split(",") if word)
    except ValueError:
        raise UserError(
            f"--lengths {given.lengths!r}: chunk lengths are whole numbers with commas between, "
            "such as 512,1024"
        ) from None
    if lengths and min(lengths) < 1:
        raise UserError(f"--lengths {given.lengths}: a chunk has at least 1 token")
    if not 0 <= given.seconds < 1e6:
        raise UserError(f"--seconds {given.seconds:g}: must be 0 or more, and below a million")
    to = resolve(given.to)
    if not to.parent.is_dir() or to.is_dir():
        raise UserError(f"--to {shown(given.to)}: name a file in a folder that exists")
    return ProfileOptions(to, given.to, lengths, given.seconds, given.split), rest


def run(
    config: Config, options: ProfileOptions, environment: MutableMapping[str, str]
) -> int:
    """Choose the devices as the run does, measure, and write the table."""
    # what the table is for need not be there yet
    schedule = replace(config.schedule, costs=None, max_growth=0.0)
    if schedule.partition == "measured":
        schedule = replace(schedule, partition="balanced")
    config = replace(config, schedule=schedule)
    validate(config)
    choose_devices(config, environment)
    with ctrl_c_ends_imports():
        from seq1f1b_jax.training.profile.run import profile

    table = profile(config, options.lengths, seconds=options.seconds, split=options.split)
    table.save(options.to)
    name = shown(options.typed)
    print(f"saved in {name}; use it with --schedule.partition measured --schedule.costs {name}")
    return 0
