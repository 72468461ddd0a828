"""What a terminal and what a log file see of a run."""

import io
import re
import time

import pytest
from rich.console import Console

from seq1f1b_jax.host.progress import ProgressReport, clock_time, short, waiting


def run(report, steps, num_seconds=None):
    with report as progress:
        for step in steps:
            if num_seconds is not None:
                num_seconds[0] += 1
            progress.update(step, loss=step / 10, tokens_per_second=15754, step_seconds=0.5)
        progress.message("held-out loss [1.25]")


def test_a_log_gets_the_first_the_last_and_a_line_every_few_seconds():
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, width=40, highlight=False)
    report = ProgressReport(25, console=console, line_seconds=10, clock=lambda: now[0])
    run(report, range(1, 26), now)
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["1/25", "11/25", "21/25", "25/25"]
    assert lines[1] == "step 11/25  loss 1.100  15.8k tokens/s  0.50 s/step  0:07 left"
    assert lines[-1] == "held-out loss [1.25]"
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_bar_with_the_same_words():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, highlight=False)
    run(ProgressReport(25, console=console, start_step=11), range(12, 26))
    assert "step 25/25" in out.getvalue() and "0:00 left" in out.getvalue()
    assert "\x1b" in out.getvalue() and "held-out loss [1.25]" in out.getvalue()


def test_the_bar_can_be_switched_off():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, highlight=False)
    run(ProgressReport(3, console=console, bar=False), range(1, 4))
    assert "\x1b" not in out.getvalue() and "step 3/3" in out.getvalue()


def test_time_left_ignores_a_slow_first_step():
    out = io.StringIO()
    report = ProgressReport(100, console=Console(file=out, width=200), line_seconds=0)
    for step, seconds in enumerate([60.0, 1.0, 1.0], 1):  # the first one compiles
        report.update(step, loss=1.0, tokens_per_second=1.0, step_seconds=seconds)
    assert "1:37 left" in out.getvalue().splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "text"), [(950, "950"), (15754, "15.8k"), (2.1e7, "21.0M"), (3.2e9, "3200.0M")]
)
def test_short(number, text):
    assert short(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (41, "0:41"), (3725, "1:02:05")])
def test_clock_time(seconds, text):
    assert clock_time(seconds) == text


TERMINAL = {"force_terminal": True, "width": 120, "highlight": False}


def shown(text):
    """What a terminal shows of each line in the end, without the control sequences."""
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", line) for line in text.split("\n")]


def test_a_wait_is_a_line_before_and_a_line_after_in_a_log():
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, width=40, highlight=False)
    with waiting("compiling the step", console=console, clock=lambda: now[0]) as told:
        assert out.getvalue() == "compiling the step ...\n"
        print("[Gloo] Rank 0 is connected", file=out)  # a line of others falls into no line
        now[0] = 12.34
        told.append("1.2 MB per device")
    assert out.getvalue().splitlines() == [
        "compiling the step ...", "[Gloo] Rank 0 is connected",
        "compiling the step took 12.3 s; 1.2 MB per device",
    ]  # fmt: skip


def test_a_wait_counts_its_seconds_in_place_in_a_terminal():
    out, now = io.StringIO(), [0.0]
    console = Console(file=out, **TERMINAL)
    with waiting("compiling the step", console=console, clock=lambda: now[0]):
        now[0] = 12.34
        wait_for(lambda: "compiling the step ... 12 s" in out.getvalue())
    lines = shown(out.getvalue())
    assert lines[-2:] == ["compiling the step took 12.3 s", ""]
    assert out.getvalue().count("\n") <= 2  # nothing stays but the last line


def test_a_wait_during_the_run_is_told_beside_the_bar_and_the_loss_comes_back():
    out, now = io.StringIO(), [0.0]
    report = ProgressReport(3, console=Console(file=out, **TERMINAL), clock=lambda: now[0])
    with report as progress:
        progress.update(1, loss=1.5, tokens_per_second=1.0, step_seconds=1.0)
        wait_for(lambda: "step 1/3  loss 1.500" in out.getvalue())
        with progress.waiting("compiling the evaluation"):
            now[0] = 7.0
            wait_for(lambda: "compiling the evaluation ... 7 s" in out.getvalue())
        rest = len(out.getvalue())
        wait_for(lambda: "step 1/3  loss 1.500" in out.getvalue()[rest:])
    assert "compiling the evaluation took 7.0 s" in out.getvalue()


def test_several_processes_count_no_seconds_in_place():
    out = io.StringIO()
    report = ProgressReport(3, console=Console(file=out, **TERMINAL), alone=False)
    with report as progress, progress.waiting("compiling"):
        assert out.getvalue() == "compiling ...\n"


def wait_for(there, *, seconds=20.0):
    """Return once a thread has drawn it."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)
