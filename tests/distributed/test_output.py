"""One process speaks for all, and a refused run ends at once, with whose refusal it is."""

import subprocess
import sys
import threading

import pytest

from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import Processes, one_voice
from seq1f1b_jax.distributed.exits import LOST_PEER, USER_ERROR
from seq1f1b_jax.distributed.output import NotMet, at_most


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.distributed.output.REFUSED_SECONDS", 0)


@pytest.mark.parametrize("index, heard", [(0, "hello\n"), (1, "")])
def test_only_process_0_is_heard(index, heard, capsys):
    with one_voice(Processes(2, index, "127.0.0.1:1")):
        print("hello")
    assert capsys.readouterr().out == heard


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("kind, status", [(UserError, USER_ERROR), (NotMet, LOST_PEER)])
def test_an_error_names_its_process_and_ends_it(kind, status, index, quick, capsys):
    ended = []
    with one_voice(Processes(2, index, "127.0.0.1:1"), end=ended.append), refusals():
        raise kind("no such file; give another")
    assert ended == [status]
    told = capsys.readouterr().err
    assert told == f"error: [process {index} of 2] no such file; give another\n"


def test_an_error_is_told_where_standard_output_is_closed(quick, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with one_voice(Processes(2, 0, "127.0.0.1:1"), native=False, end=lambda status: None):
        raise UserError("bad")
    assert capsys.readouterr().err == "error: [process 0 of 2] bad\n"


def test_alone_it_is_left_to_the_caller(capsys):
    with pytest.raises(UserError), one_voice(Processes()):
        raise UserError("bad")
    assert capsys.readouterr().err == ""


def test_what_takes_too_long_is_refused_beside_it(capsys):
    ended, late = [], threading.Event()

    def end(status):
        ended.append(status)
        late.set()

    processes = Processes(2, 1, "127.0.0.1:1")
    with at_most(0.05, processes, UserError("nobody came; start all"), end=end):
        assert late.wait(20)
    assert ended == [USER_ERROR]
    assert capsys.readouterr().err == "error: [process 1 of 2] nobody came; start all\n"


def test_what_is_done_in_time_is_not_refused():
    ended, before = [], set(threading.enumerate())
    processes = Processes(2, 1, "127.0.0.1:1")
    with at_most(20, processes, UserError("nobody came"), end=ended.append):
        (timer,) = set(threading.enumerate()) - before
    timer.join(10)  # one that was not called off would stay for 20 s
    assert not timer.is_alive() and ended == []


NATIVE = """
import os, sys
from seq1f1b_jax.distributed import Processes, one_voice
with one_voice(Processes(2, int(sys.argv[1]), "127.0.0.1:1"), native=sys.argv[2] == "heard"):
    print("ours", end=" ", flush=True)
    os.write(1, b"[Gloo] Rank [Gloo] Rank 0 is connected\\n")
    print("in one line")
os.write(1, b"after\\n")
"""


@pytest.mark.parametrize(
    "index, native, heard",
    [
        (0, "dropped", "ours in one line\nafter\n"),
        (1, "dropped", "after\n"),
        (0, "heard", "ours [Gloo] Rank [Gloo] Rank 0 is connected\nin one line\nafter\n"),
    ],
)
def test_lines_of_compiled_libraries_fall_into_none_of_ours(index, native, heard):
    command = [sys.executable, "-c", NATIVE, str(index), native]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == heard
