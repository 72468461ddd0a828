"""What a terminal and what a log file see of a run."""

import io

import pytest
from rich.console import Console

from seq1f1b_jax.training.progress import ProgressReport, clock_time, short


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
