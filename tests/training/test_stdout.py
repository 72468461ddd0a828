"""A stream whose reader is gone, or whose disk is full, takes no more and stops nothing."""

import errno
import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from seq1f1b_jax.host.stdout import Output, lasting_output


class Broken(io.StringIO):
    """A stream that fails from some write on; the failures are counted."""

    def __init__(self, number: int, *, after: int = 0):
        super().__init__()
        self.number, self.left, self.failures = number, after, 0

    def write(self, text):
        if self.left <= 0:
            self.failures += 1
            raise OSError(self.number, os.strerror(self.number))
        self.left -= 1
        return super().write(text)


def test_the_first_failure_is_told_once_and_to_those_who_ask_later_too():
    told, output = [], Output(Broken(errno.EIO))
    with output.when_lost(pytest.fail):
        pass  # nothing has happened yet
    with output.when_lost(told.append):
        for _ in range(3):
            print("nobody reads this", file=output, flush=True)
    with output.when_lost(told.append):
        pass
    assert [error.errno for error in told] == [errno.EIO, errno.EIO] and told[0] is told[1]
    assert output.lost is told[0]


@pytest.mark.parametrize("target", ["a pipe without a reader", "a full disk"])
def test_a_descriptor_leads_nowhere_once_it_has_failed(target):
    if target == "a full disk":
        writer = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    with os.fdopen(writer, "w") as stream:
        output = Output(stream)
        print("dropped", file=output, flush=True)
        assert output.lost.errno == (errno.ENOSPC if target == "a full disk" else errno.EPIPE)
        assert os.path.samestat(os.fstat(writer), os.stat(os.devnull))
        os.write(writer, b"what a compiled library writes")
        print("what waits in Python's buffer", file=stream)  # flushed by leaving the block


def test_a_command_that_works_for_its_files_goes_on_and_says_so_once():
    err = io.StringIO()
    with redirect_stdout(Broken(errno.ENOSPC, after=2)) as out, redirect_stderr(err):
        with lasting_output(prints_result=False):
            for line in range(5):
                print(line)
    assert out.getvalue() == "0\n"
    assert err.getvalue() == (
        "note: standard output is gone (No space left on device); going on without it, saving as "
        "usual\n"
    )


def test_a_reader_who_has_seen_enough_of_a_result_is_told_nothing():
    err = io.StringIO()
    with redirect_stdout(Broken(errno.EPIPE)), redirect_stderr(err):
        with lasting_output(prints_result=True) as output:
            print("result")
    assert err.getvalue() == "" and isinstance(output.lost, BrokenPipeError)


def test_a_result_without_room_for_it_is_an_error_at_the_end():
    done = []
    with pytest.raises(ValueError, match="cannot write standard output .No space left"):
        with redirect_stdout(Broken(errno.ENOSPC)), lasting_output(prints_result=True):
            print("result")
            done.append("the rest")
    assert done == ["the rest"]


def test_standard_error_may_be_gone_as_well():
    with redirect_stdout(Broken(errno.EPIPE)), redirect_stderr(Broken(errno.EPIPE)) as err:
        with lasting_output(prints_result=False):
            print("a line")
            print("a warning", file=sys.stderr)
    assert err.failures > 0


def test_a_process_that_was_started_without_streams(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with lasting_output(prints_result=False) as output:
        print("nobody reads this")
    assert output.lost is None and sys.stdout is None
