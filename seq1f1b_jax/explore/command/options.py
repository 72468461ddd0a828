"""The options of the command."""

import argparse
import re
from fractions import Fraction
from typing import NoReturn, get_args

from seq1f1b_jax.paths import one_line
from seq1f1b_jax.schedule.files.plan_file import Format
from seq1f1b_jax.schedule.registry import SCHEDULES
from seq1f1b_jax.schedule.simulation.simulate import MACHINES

_NUMBER = re.compile(r"[0-9]{0,9}\.?[0-9]{1,9}|[0-9]{1,9}/[0-9]{1,9}")


class _Parser(argparse.ArgumentParser):
    """One line for bad input, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)}\n")


RENAMED = {"--stages": "--ranks", "--virtual": "--stages-per-rank"}


class _Renamed(argparse.Action):
    """An option that has a new name."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is now {self.metavar}")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    result = _Parser(
        prog="python -m seq1f1b_jax.explore",
        description="Print, draw, compare and search schedules. Without arguments: list them.",
        allow_abbrev=False,
    )
    result.add_argument(
        "schedule",
        nargs="?",
        help=f"one of {', '.join(SCHEDULES)}, package.module:name of another, or a plan file (.csv"
        " or text)",
    )
    _add_sizes(result.add_argument_group("sizes (a plan file brings its own)"))
    _add_times(result.add_argument_group("times of one unit on one rank, all of its layers"))
    _add_outputs(result.add_argument_group("what to show"))
    _add_search(result.add_argument_group("search"))
    return result


def check(options: argparse.Namespace) -> None:
    """Refuse options that have no meaning beside each other.

    Raises:
      ValueError: there are such.
    """
    if options.search and options.schedule is not None:
        raise ValueError(
            f"--search finds its own plan, {options.schedule!r} is another; leave it out, or put it"
            " behind --compare"
        )
    if not options.search:
        for option in ("memory", "split"):
            if getattr(options, option):
                raise ValueError(f"--{option} is for --search; add that, or leave it out")
    if options.format is not None and options.save is None:
        raise ValueError("--format says how --save writes; add --save FILE, or leave it out")
    if options.schedule is None and not options.search:
        given = [name for name in _NEED_A_PLAN if getattr(options, name)]
        if given:
            option = given[0].replace("_", "-")
            raise ValueError(f"--{option} needs a schedule; name one of {', '.join(SCHEDULES)}")


_NEED_A_PLAN = (
    *("ranks", "microbatches", "chunks", "stages_per_rank", "extra_warmup", "short_warmup"),
    *("weights", "transfer", "machine", "seq_len", "compare", "draw", "save", "full"),
)


def _add_sizes(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ranks", type=_count, metavar="P", help="ranks of the pipeline")
    group.add_argument("--microbatches", type=_count, metavar="M", help="of one step")
    group.add_argument("--chunks", type=_count, metavar="C", help="slices of a sequence (1)")
    group.add_argument(
        "--stages-per-rank", type=_count, metavar="V", help="(2 where interleaved, else 1)"
    )
    for old, new in RENAMED.items():
        group.add_argument(old, action=_Renamed, metavar=new, help=argparse.SUPPRESS)
    group.add_argument(
        "--extra-warmup", type=_count_or_0, default=0, metavar="UNITS", help="more forwards (0)"
    )
    group.add_argument("--short-warmup", action="store_true", help="fewer forwards")


def _add_times(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--forward", type=_time, metavar="TIME", default=Fraction(1), help="of F (1)"
    )
    group.add_argument(
        "--backward", type=_time, metavar="TIME", default=Fraction(2), help="of B (2)"
    )
    group.add_argument(
        "--weights", type=_time, metavar="TIME", help="of W, a part of B (that of F)"
    )
    group.add_argument(
        "--transfer",
        type=_time_or_0,
        metavar="TIME",
        default=Fraction(0),
        help="of the message of a unit (0)",
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--machine", choices=MACHINES, help="whose timeline is shown (executor)")
    group.add_argument(
        "--seq-len", type=_count, metavar="TOKENS", help="tokens, cut evenly: shows the buffers too"
    )
    group.add_argument(
        "--block", type=_count, metavar="TOKENS", default=128, help="alignment of the chunks (128)"
    )
    group.add_argument(
        "--compare", nargs="+", default=[], metavar="NAME", help="schedules or files beside it"
    )
    group.add_argument("--draw", metavar="FILE", help="a picture: .svg, .png, .html or .json")
    group.add_argument("--save", metavar="FILE", help="the plan: .csv, or anything else for text")
    group.add_argument(
        "--format", choices=get_args(Format), help="of --save: own, or torch for torch's CSV (own)"
    )
    group.add_argument(
        "--full", action="store_true", help="whole grids in a terminal, and very long ones"
    )


def _add_search(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--search", action="store_true", help="find a plan for the given sizes")
    group.add_argument(
        "--memory", type=_count, metavar="UNITS", help="units that a rank may hold (as seq1f1b)"
    )
    group.add_argument("--split", action="store_true", help="with backwards split into I and W")


def _count(text: str) -> int:
    return _whole(text, least=1)


def _count_or_0(text: str) -> int:
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not (text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least {least}")
    return int(text)


def _time(text: str) -> Fraction:
    time = _fraction(text)
    if time is None or time <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0, like 2.5")
    return time


def _time_or_0(text: str) -> Fraction:
    time = _fraction(text)
    if time is None or time < 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of at least 0, like 0.1")
    return time


def _fraction(text: str) -> Fraction | None:
    try:
        return Fraction(text) if _NUMBER.fullmatch(text) else None
    except ZeroDivisionError:
        return None
