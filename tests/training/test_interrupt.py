"""The first signal asks, the second Ctrl-C ends, and the old handlers come back."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from seq1f1b_jax.training.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_handlers_come_back(number):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested and stop.signal == number
        signal.raise_signal(signal.SIGTERM)  # a supervisor that repeats itself changes nothing
        assert stop.signal == number
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_come_back_after_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), stop_on_signals():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) == before


def test_only_in_the_main_thread():
    messages = []

    def enter():
        with pytest.raises(ValueError, match="thread worker-7; signal handlers") as error:
            with stop_on_signals():
                pass
        messages.append(str(error.value))

    thread = threading.Thread(target=enter, name="worker-7")
    thread.start()
    thread.join()
    assert len(messages) == 1


PROGRAM = """
import sys, time
from seq1f1b_jax.training.interrupt import stop_on_signals
with stop_on_signals() as stop:
    print("ready", flush=True)
    for _ in range(1000):
        time.sleep(0.02)
        if stop.requested and sys.argv[1] == "polite":
            break
    print("saved", flush=True)
"""


@contextmanager
def started(manner):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, manner],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert program.stdout.readline() == "ready\n"
        yield program
    finally:
        program.kill()
        program.communicate()


def test_a_process_finishes_its_step_and_exits_cleanly():
    with started("polite") as program:
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=20)
    assert (program.returncode, out) == (0, "saved\n")
    assert err.count("stopping after this step") == 1


def test_the_second_ctrl_c_ends_a_busy_process_at_once():
    with started("busy") as program:
        program.send_signal(signal.SIGINT)
        assert program.stderr.readline() == "\n"  # the first one has been handled
        program.send_signal(signal.SIGINT)
        out, _ = program.communicate(timeout=15)  # left alone it sleeps for 20 s
    assert (program.returncode, out) == (-signal.SIGINT, "")
