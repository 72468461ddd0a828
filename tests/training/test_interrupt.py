"""The first signal asks, the second Ctrl-C ends, and the old handlers come back."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from seq1f1b_jax.host.interrupt import SIGNALS, second_ctrl_c_ends, stop_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request_and_handlers_come_back(number):
    before = [signal.getsignal(s) for s in SIGNALS]
    with stop_on_signals() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested and stop.signal == number
        signal.raise_signal(signal.SIGTERM)  # a supervisor that repeats itself changes nothing
        assert stop.signal == number
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a process
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
from seq1f1b_jax.host.interrupt import stop_on_signals
with stop_on_signals() as stop:
    print("ready", flush=True)
    for _ in range(1000):
        time.sleep(0.02)
        if stop.requested and sys.argv[1] == "polite":
            break
    print("saved", flush=True)
"""


@contextmanager
def started(manner, *, program=PROGRAM):
    program = subprocess.Popen(
        [sys.executable, "-c", program, manner],
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
    assert err.startswith("\nSIGTERM: stopping after this step and saving; Ctrl-C ends the process")


def test_the_second_ctrl_c_ends_a_busy_process_at_once():
    with started("busy") as program:
        program.send_signal(signal.SIGINT)
        assert program.stderr.readline() == "\n"  # the first one has been handled
        program.send_signal(signal.SIGINT)
        out, _ = program.communicate(timeout=15)  # left alone it sleeps for 20 s
    assert (program.returncode, out) == (-signal.SIGINT, "")


COMPILES = """
import hashlib
from seq1f1b_jax.host.interrupt import second_ctrl_c_ends
with second_ctrl_c_ends():
    try:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})  # as compiled code, it hears no signal
        print("returned", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("rounds", "signals", "status", "told"),
    [(2_000_000, 1, 0, "interrupted\n"), (2_000_000_000, 2, -signal.SIGINT, "")],
    ids=["the first one once it returns", "the second one at once"],
)
def test_ctrl_c_in_compiled_code(rounds, signals, status, told):
    with started("", program=COMPILES.format(rounds=rounds)) as program:
        for _ in range(signals):
            time.sleep(0.3)  # it is in compiled code by now, and has heard of the one before
            program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, out, err) == (status, told, "")


def test_python_hears_ctrl_c_again_afterwards():
    with pytest.raises(KeyboardInterrupt), second_ctrl_c_ends():
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
