"""Grids in a terminal end at its width and say what is left out; in a pipe they are whole."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from seq1f1b_jax.explore.__main__ import main
from seq1f1b_jax.schedule import draw_plan, make_plan
from seq1f1b_jax.schedule.grid import Cell, draw

LARGE = ["seq1f1b", "--ranks", "8", "--microbatches", "16", "--chunks", "4"]
HINT = "the grids are wider than this terminal; --full prints them whole"


def grids(out):
    """The lines that belong to ranks."""
    return [line for line in out.splitlines() if line.startswith("rank ")]


def printed(capsys, *words, **options):
    assert main([*words], **options) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [1, 20, 79, 80, 100, 213])
def test_a_grid_ends_at_the_width_and_says_what_is_left_out(capsys, width):
    out = printed(capsys, *LARGE, width=width)
    longest = max(map(len, grids(out)))
    assert longest <= max(width, len("rank 0  F10.0 ..."))
    assert longest > width - len("F10.0 ") or width < 20
    assert {row[-4:] for row in grids(out)} == {" ..."}
    lines = [line for line in out.splitlines() if line.startswith("(columns 0 to ")]
    assert [line.split(" of ")[1] for line in lines] == ["128)", "213)"]
    assert out.count(HINT) == 1


def test_what_is_shown_is_the_beginning_of_the_whole(capsys):
    whole = grids(printed(capsys, *LARGE))
    assert max(map(len, whole)) > 1000
    for row, full in zip(grids(printed(capsys, *LARGE, width=90)), whole, strict=True):
        shown, rest = row.removesuffix(" ..."), full[len(row) - 4 :]
        assert full.startswith(shown) and (rest.startswith(" ") or "-" in (shown[-1], rest[0]))


def test_full_and_a_pipe_get_everything(capsys):
    piped = printed(capsys, *LARGE)
    assert printed(capsys, *LARGE, "--full", width=80) == piped
    assert "(columns" not in piped and HINT not in piped


def test_what_fits_is_not_touched(capsys):
    words = ["1f1b", "--ranks", "2", "--microbatches", "2"]
    assert printed(capsys, *words, width=80) == printed(capsys, *words)


def test_a_row_that_fits_exactly_is_whole():
    plan = make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)
    width = max(map(len, draw_plan(plan).splitlines()))
    assert draw_plan(plan, max_width=width) == draw_plan(plan)
    assert "(columns 0 to 2 of 4)" in draw_plan(plan, max_width=width - 1)


def test_an_action_that_goes_on_beyond_the_last_column_is_cut():
    grid = draw([[Cell("B0.0", 0, 3), Cell("F1.0", 3)]], num_columns=4, max_width=22)
    assert grid.splitlines() == ["rank 0  B0.0----- ...", "(columns 0 to 1 of 4)"]


def test_very_many_actions_are_printed_in_a_pipe(capsys):
    words = ["gpipe", "--ranks", "2", "--microbatches", "600"]
    assert max(map(len, grids(printed(capsys, *words)))) > 5 * 1200


@pytest.mark.parametrize(("columns", "whole"), [(80, False), (3000, True)])
def test_a_real_terminal_is_asked_for_its_width(columns, whole):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "seq1f1b_jax.explore", *LARGE]
    process = subprocess.Popen(command, stdout=theirs, env=environment)
    os.close(theirs)
    out = b""
    try:
        while part := os.read(ours, 65536):
            out += part
    except OSError:  # how Linux says that the other side has closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0
    text = out.decode().replace("\r\n", "\n")
    assert (HINT not in text) is whole
    assert (max(map(len, grids(text))) > 80) is whole
