"""What becomes of a set of processes: how it ends, who is named, when it starts again."""

import os
import signal
import subprocess

import pytest

from seq1f1b_jax.launch.guard import Guard, kill_whom_it_left
from tests.launch.conftest import alive


def port_of(start):
    arguments = start["args"]
    host, _, port = arguments[arguments.index("--distributed.coordinator") + 1].partition(":")
    assert host == "127.0.0.1"
    return int(port)


def test_process_0_speaks_and_the_others_errors_are_marked(launcher):
    words = "out=told err=complained"
    status, out, err = launcher.run("--processes", 3, "--", "--all", words, "--mesh.pipe", 3)
    assert (status, out) == (0, "told\n")
    lines = ["[process 1] complained", "[process 2] complained", "complained"]
    assert sorted(err.splitlines()) == lines
    for index in range(3):
        (start,) = launcher.seen(index)
        port = f"127.0.0.1:{port_of(start)}"
        ours = ["coordinator", port, "num_processes", "3", "process_id", str(index)]
        names = [f"--distributed.{w}" if i % 2 == 0 else w for i, w in enumerate(ours)]
        assert start["args"] == ["--all", words, "--mesh.pipe", "3", *names]


def test_a_process_that_is_killed_is_named_and_the_others_are_ended(launcher):
    status, out, err = launcher.run(
        "--processes", 3, "--grace", 0.2, "--",
        "--do.1", "err=first err=second until=0 until=2 kill=SIGKILL", "--all", "wait",
    )  # fmt: skip
    assert status == 128 + signal.SIGKILL
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("[")] == [
        "process 1 was killed by SIGKILL (out of memory?)",
        "  the last it wrote to standard error:",
        "    first",
        "    second",
        "process 0, 2: killed, still running after 0.2 s",
        "ended: process 1 was killed by SIGKILL (out of memory?); the same command continues the "
        "run",
    ]
    launcher.assert_gone(*(launcher.seen(index)[0]["pid"] for index in range(3)))


def test_the_others_may_end_by_themselves_within_the_grace(launcher):
    status, _, err = launcher.run(
        "--processes", 2, "--grace", 30, "--", "--do.0", "exit=76", "--do.1", "pause=0.5 err=went"
    )
    assert status == 76
    assert "[process 1] went" in err and "killed" not in err


def test_a_process_that_stands_still_is_named_and_not_the_one_that_lost_it(launcher):
    status, _, err = launcher.run(
        "--processes", 2, "--grace", 0.2, "--", "--do.0", "kill=SIGSTOP",
        "--do.1", "pause=0.5 exit=76",
    )  # fmt: skip
    assert status == 76
    last = "ended: process 0 stood still, and process 1 lost it; the same command continues the run"
    assert err.splitlines()[-1] == last


@pytest.mark.parametrize(
    ("word", "status", "told"),
    [
        ("exit=75", 75, "process 1 ended with 75: its watchdog saw a stalled step"),
        ("exit=76", 76, "process 1 ended with 76: it lost another process, or met none"),
        ("exit=1", 1, "process 1 ended with 1"),
        ("kill=SIGSEGV", 139, "process 1 was killed by SIGSEGV (a crash in compiled code)"),
    ],
)
def test_status_is_that_of_the_first_death(launcher, word, status, told):
    found, _, err = launcher.run(
        "--processes", 2, "--grace", 0, "--", "--do.1", word, "--do.0", "wait"
    )
    assert found == status
    assert err.splitlines()[0] == told


def test_a_set_starts_again_on_another_port(launcher):
    status, out, err = launcher.run(
        "--processes", 2, "--restarts", 2, "--grace", 0, "--",
        "--do.1", "meet=0 kill-at-first", "--do.0", "out=fine",
    )  # fmt: skip
    assert status == 0
    assert out.endswith("fine\n")
    assert "restart 1 of 2: process 1 was killed by SIGKILL" in err
    starts = launcher.seen(0), launcher.seen(1)
    assert len(starts[0]) == len(starts[1]) == 2
    first, second = ({port_of(start) for start in pair} for pair in zip(*starts, strict=True))
    assert len(first) == len(second) == 1 and first != second


@pytest.mark.parametrize(("word", "starts"), [("exit=2", 1), ("exit=0", 1), ("exit=1", 1),
                                              ("exit=75", 2), ("exit=76", 2)])  # fmt: skip
def test_only_what_a_restart_can_mend_is_started_again(launcher, word, starts):
    status, _, err = launcher.run("--processes", 2, "--restarts", 1, "--", "--all", word)
    assert status == int(word.removeprefix("exit="))
    assert len(launcher.seen(0)) == starts
    assert ("all 1 restarts are used up" in err) == (starts == 2)


def test_no_more_than_the_error_is_told_after_bad_input(launcher):
    _, _, err = launcher.run(
        "--processes", 2, "--restarts", 1, "--", "--do.0", "err=error:x exit=2"
    )
    cause = "process 0 ended with 2: it met bad input, as reported above"
    assert err.splitlines() == ["error:x", cause]


def test_what_all_refuse_is_told_once(launcher):
    follows = "err=watchdog:_process_1_was_refused:_no_file err=error:_no_room"
    _, _, err = launcher.run(
        "--processes", 3, "--", "--do.0", "err=error:_[process_0_of_3]_no_file exit=2",
        "--do.1", "err=error:_[process_1_of_3]_no_file exit=2",
        "--do.2", f"pause=0.5 {follows} exit=2",
    )  # fmt: skip
    assert err.count("no file") == 1 and "[process 2] error: no room" in err.splitlines()


def test_restarts_without_a_new_step_are_given_up(launcher):
    status, _, err = launcher.run(
        "--processes", 1, "--restarts", 9, "--",
        "--all", "exit=75", "--train.output_dir", launcher.folder,
    )  # fmt: skip
    assert status == 75
    assert len(launcher.seen(0)) == 4
    assert "giving up: 3 restarts in a row finished no new step; process 0 ended with 75" in err


def test_restarts_that_finish_steps_go_on(launcher):
    launcher.run(
        "--processes", 1, "--restarts", 5, "--",
        "--all", "steps exit=75", f"--train.output_dir={launcher.folder}",
        "--train.output_dir", launcher.folder,
    )  # fmt: skip
    assert len(launcher.seen(0)) == 6


def test_after_a_stall_the_process_behind_is_named(launcher):
    _, _, err = launcher.run(
        "--processes", 3, "--grace", 0, "--", "--train.output_dir", launcher.folder,
        "--do.0", "place=7,3 wait", "--do.1", "place=7,4 until=0 until=2 exit=75",
        "--do.2", "place=7,1 wait",
    )  # fmt: skip
    line = "process 2 is behind: in step 7, tick 1, F2.1; the first is in step 7, tick 4, F2.1"
    assert line in err.splitlines()


def test_a_watchdog_that_writes_after_the_first_death_is_heard(launcher):
    _, _, err = launcher.run(
        "--processes", 2, "--", "--train.output_dir", launcher.folder,
        "--do.0", "pause=0.5 place=7,4 exit=76", "--do.1", "place=7,1 exit=75",
    )  # fmt: skip
    line = "process 1 is behind: in step 7, tick 1, F2.1; the first is in step 7, tick 4, F2.1"
    assert line in err.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_every_process(launcher, number):
    process = launcher.start(
        "--processes", 2, "--restarts", 3, "--log-dir", "logs", "--", "--all", "polite wait"
    )
    launcher.wait_for("waiting-0", "waiting-1")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, f"saved after {number.name}\n", "")
    assert f"saved after {number.name}\n" in (launcher.folder / "logs/process-1.log").read_text()


def test_a_second_interrupt_kills(launcher):
    process = launcher.start("--processes", 2, "--restarts", 3, "--", "--all", "deaf wait")
    launcher.wait_for("waiting-0", "waiting-1")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    names = (f"heard-{index}-{name}" for index in range(2) for name in ("SIGINT", "SIGTERM"))
    launcher.wait_for(*names)  # else the kernel might make one of the two interrupts
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "second Ctrl-C: killing all processes\n"
    launcher.assert_gone(*(launcher.seen(index)[0]["pid"] for index in range(2)))


def test_a_user_who_stops_it_gets_no_restart(launcher):
    process = launcher.start("--processes", 2, "--restarts", 3, "--", "--all", "wait")
    launcher.wait_for("waiting-0", "waiting-1")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert err in [f"stopped; process {index} was killed by SIGTERM\n" for index in range(2)]


def test_nobody_outlives_a_launcher_that_is_killed(launcher):
    """Nor what a child has started, which the kernel does not tell of the launcher's end."""
    process = launcher.start("--processes", 2, "--", "--all", "grandchild deaf wait")
    launcher.wait_for("waiting-0", "waiting-1")
    process.kill()
    children = [launcher.seen(index)[0]["pid"] for index in range(2)]
    texts = [(launcher.folder / f"grandchild-{index}").read_text() for index in range(2)]
    launcher.assert_gone(*children, *map(int, texts))


def test_a_guard_kills_only_whom_it_still_watches():
    groups = [subprocess.Popen(["sleep", "60"], process_group=0) for _ in range(2)]
    try:
        kill_whom_it_left(b"%d\n" % n for n in (groups[0].pid, groups[1].pid, -groups[1].pid))
        assert groups[0].wait(20) == -signal.SIGKILL and groups[1].poll() is None
    finally:
        for process in groups:
            process.kill()
            process.wait()


def test_a_guard_that_was_killed_is_no_error():
    with Guard() as guard:
        guard._process.kill()
        guard._process.wait()
        guard.watch(os.getpid())
    assert guard._process.returncode == -signal.SIGKILL  # and leaving it raised nothing


def test_nobody_outlives_its_parent(launcher):
    """A process that a child has started holds the child's pipes, and is ended all the same."""
    status, _, _ = launcher.run("--processes", 1, "--", "--all", "grandchild")
    assert status == 0
    launcher.assert_gone(int((launcher.folder / "grandchild-0").read_text()))


def test_logs_hold_all_of_every_start(launcher):
    launcher.run(
        "--processes", 2, "--restarts", 1, "--log-dir", "deep/logs", "--",
        "--all", "out=o err=e kill-at-first",
    )  # fmt: skip
    for index in range(2):
        lines = (launcher.folder / f"deep/logs/process-{index}.log").read_text().splitlines()
        heads = [line for line in lines if line.startswith("=== start ")]
        assert len(heads) == 2 and "=== start 2" in heads[1]
        assert f"[Gloo] Rank {index} is connected" in lines
        assert {"o", "e"} <= set(lines)


def test_a_program_that_is_not_python_runs_as_it_is(launcher):
    status, out, _ = launcher.run("--processes", 2, "--", "one", program="echo")
    assert status == 0
    assert out.startswith("one --distributed.coordinator 127.0.0.1:")
    assert out.endswith("--distributed.num_processes 2 --distributed.process_id 0\n")


def test_gpus_are_dealt_out(launcher):
    launcher.run("--processes", 2, "--", "--all", "out=x", CUDA_VISIBLE_DEVICES="1,3,5,7")
    assert [launcher.seen(index)[0]["gpus"] for index in range(2)] == ["1,3", "5,7"]


def test_alive_is_not_always_so():
    assert alive(1) and not alive(2**22 + 1)
