"""The launcher's parts: command line, output, devices, folders."""

import json
import signal
from types import SimpleNamespace

import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.launch.__main__ import main
from seq1f1b_jax.launch.attempt import Attempt, Outcome
from seq1f1b_jax.launch.death import can_be_mended, described, exit_status, first_cause
from seq1f1b_jax.launch.folder import finished_steps, who_is_behind
from seq1f1b_jax.launch.gpus import shares
from seq1f1b_jax.launch.launch import MIN_LIFETIME_SECONDS, Progress
from seq1f1b_jax.launch.options import parse, setting
from seq1f1b_jax.launch.output import (
    TAIL_LINES,
    Console,
    Marked,
    PassThrough,
    SeenErrors,
    Tail,
    ToFile,
)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no command; name it behind --"),
        (["--processes", "2"], "no command; name it behind --"),
        (["--processes", "2", "--"], "no command"),
        (["--", "train.py"], "--processes"),
        (["--processes", "0", "--", "train.py"], "--processes 0: all run on this"),
        (["--processes", "100000", "--", "train.py"], "--processes 100000: all run on this"),
        (["--processes", "1", "--log-dir", "", "--", "train.py"], "--log-dir is empty"),
        (["--processes", "two", "--", "train.py"], "'two'"),
        (["--processes", "1", "--restarts", "-1", "--", "train.py"], "--restarts -1"),
        (["--processes", "1", "--grace", "-1", "--", "train.py"], "--grace -1.0"),
        (["--processes", "1", "--grace", "inf", "--", "train.py"], "must be a finite number"),
        (["--processes", "1", "--grace", "nan", "--", "train.py"], "--grace nan"),
        (["--processes", "1", "--port", "7", "--", "train.py"], "--port 7"),
        (["--processes", "1", "train.py"], "behind --, as in --processes 2 -- train.py"),
        (["--processes", "1", "--", "gone.py"], "gone.py does not exist"),
        (["--processes", "1", "--", "gone-program"], "cannot start 'gone-program'"),
        (
            ["--processes", "1", "--", "train.py", "--distributed.process_id=1"],
            "--distributed.process_id is what the launcher sets itself",
        ),
        (
            ["--processes", "1", "--restarts", "1", "--", "train.py", "--train.resume", "never"],
            "--train.resume never with --restarts",
        ),
        (["--processes", "1", "--log-dir", "file", "--", "train.py"], "--log-dir file"),
    ],
)
def test_bad_input_is_one_line(arguments, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("error: ") and told in err


def test_help_tells_of_statuses_and_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for word in ("--processes", "--restarts", "--log-dir", "--grace", "128 + N", "Ctrl-C"):
        assert word in out


def test_what_stands_behind_the_dashes_is_left_alone():
    options = parse(["--processes", "2", "--", "train.py", "--help", "--", "--grace", "1"])
    assert options.command == ("train.py", "--help", "--", "--grace", "1")
    assert (options.restarts, options.grace_seconds, options.log_dir) == (0, 20.0, None)


def test_the_last_setting_counts():
    command = ["train.py", "--train.output_dir", "a", "--train.output_dir=b", "--x"]
    assert setting(command, "train.output_dir") == "b"
    assert setting(command, "train.seed") is None
    assert setting(command, "x") == ""


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_output_passes_without_gloo_however_it_is_cut(size):
    text = b"[Gloo] Rank 0\n[Gl\n[Gloo] x[Gloo] \nstep 1 [Gloo] stays\r[Gloo] too\n\n[Gloo"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    passed: list[bytes] = []
    through = PassThrough(passed.append)
    for piece in pieces:
        through.feed(piece)
    through.close()
    assert b"".join(passed) == b"[Gl\nstep 1 [Gloo] stays\r[Gloo] too\n\n[Gloo"
    passed.clear()
    marked = Marked(passed.append, b"> ")
    for piece in pieces:
        marked.feed(piece)
    marked.close()
    assert b"".join(passed) == b"> [Gl\n> step 1 [Gloo] stays\r[Gloo] too\n> [Gloo\n"


def test_half_a_line_passes_at_once():
    passed: list[bytes] = []
    PassThrough(passed.append).feed(b"compiling ... ")
    assert passed == [b"compiling ... "]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_refusal_passes_once_however_it_is_cut(size):
    passed: list[bytes] = []
    shown = SeenErrors()
    other = Marked(passed.append, b"> ", shown)
    other.feed(b"error: [process 1 of 2] no file\n")
    through = PassThrough(passed.append, shown)
    text = b"err\nerror: [process 0 of 2] no file\nwatchdog: since: no file\nerror: other\nwatchd"
    for start in range(0, len(text), size):
        through.feed(text[start : start + size])
    through.close()
    told = b"> error: [process 1 of 2] no file\nerr\nerror: other\nwatchd"
    assert b"".join(passed) == told


def test_a_tail_keeps_the_last_lines():
    tail = Tail()
    tail.feed(b"".join(b"%d\n\n" % i for i in range(50)) + b"\xff")
    tail.close()
    assert list(tail.lines) == [*map(str, range(51 - TAIL_LINES, 50)), "\N{REPLACEMENT CHARACTER}"]


def test_a_full_disk_ends_the_log_only():
    told: list[str] = []
    with open("/dev/full", "wb", 0) as full:
        log = ToFile(full, told.append)
        log.feed(b"x")
        log.feed(b"y")
    assert told == ["a log in --log-dir ends here: No space left on device"]


def test_our_lines_stand_alone(capfd):
    console = Console()
    for piece in (b"half", b"whole\n"):
        console.err(piece)
        console.say("ours")
    assert capfd.readouterr().err == "half\nours\nwhole\nours\n"


def test_ends_in_words():
    assert described(0, -signal.SIGTERM) == "process 0 was killed by SIGTERM"
    assert described(3, -40) == "process 3 was killed by signal 40"
    assert described(3, 7) == "process 3 ended with 7"
    assert described(0, 77) == "process 0 ended with 77: it was stopped, and has saved"
    assert [exit_status(code) for code in (0, 2, -9)] == [0, 2, 137]
    mended = [can_be_mended(code) for code in (-9, -6, 75, 76, 0, 1, 2, 77)]
    assert mended == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("codes", "first"),
    [({0: -6, 1: -9}, 1), ({0: 76, 2: -6}, 2), ({0: 76, 1: 75}, 1), ({2: 2, 3: 2}, 2)],
)
def test_of_deaths_at_one_time_the_cause_comes_first(codes, first):
    assert first_cause(codes) == first


@pytest.mark.parametrize(
    ("count", "command", "environment", "devices"),
    [
        (2, ["train.py"], {"CUDA_VISIBLE_DEVICES": "0,1"}, ["0", "1"]),
        (2, ["train.py"], {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,"}, ["GPU-a", "GPU-b"]),
        (1, ["train.py"], {"CUDA_VISIBLE_DEVICES": "0,1,2"}, [None]),
        (2, ["train.py"], {"CUDA_VISIBLE_DEVICES": ""}, [None, None]),
        (2, ["train.py"], {"CUDA_VISIBLE_DEVICES": "-1"}, [None, None]),
        (2, ["train.py"], {"CUDA_VISIBLE_DEVICES": "0", "JAX_PLATFORMS": "cpu"}, [None, None]),
        (2, ["t.py", "--mesh.platform=cpu"], {"CUDA_VISIBLE_DEVICES": "0"}, [None, None]),
        (2, ["train.py"], {"PATH": ""}, [None, None]),
    ],
)
def test_shares_of_devices(count, command, environment, devices):
    given = [share.get("CUDA_VISIBLE_DEVICES") for share in shares(count, command, environment)]
    assert given == devices


def test_the_driver_is_asked_for_devices(tmp_path):
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\nfor i in 0 1 2 3; do echo \"GPU $i: H100 (UUID: GPU-$i)\"; done\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    devices = shares(2, ["train.py"], {"PATH": str(tmp_path)})
    assert devices == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    with pytest.raises(UserError, match=r"4 GPUs \(0,1,2,3\).* 3 processes; .*--processes 1 or 2"):
        shares(3, ["train.py"], {"PATH": str(tmp_path)})


def test_finished_steps_are_those_of_metrics_and_checkpoints(tmp_path):
    assert finished_steps(tmp_path / "gone") == 0
    for name in ("000004", "000006.saving"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert finished_steps(tmp_path) == 4
    lines = [{"step": step, "loss": 1.0} for step in range(6)] + [{"step": 9, "held_out_loss": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    assert finished_steps(tmp_path) == 6


def test_restarts_without_progress_are_counted(tmp_path):
    progress = Progress(None)
    lives = [0.0, 1.0, MIN_LIFETIME_SECONDS, 1.0, 1.0]
    counted = [progress.idle_restarts(n, seconds=s) for n, s in enumerate(lives)]
    assert counted == [0, 1, 0, 1, 2]


def place(folder, index, step, tick, time):
    (folder / "watchdog").mkdir(exist_ok=True)
    told = {"process": index, "step": step, "tick": tick, "cell": None, "time": time}
    (folder / "watchdog" / f"process-{index}.json").write_text(json.dumps(told))


def test_who_is_behind(tmp_path):
    assert who_is_behind(tmp_path, 2, since=10) is None
    place(tmp_path, 0, 5, None, 11)
    told = "process 1 is behind: it has written nothing since the start; the first is in step 5"
    assert who_is_behind(tmp_path, 2, since=10) == told
    place(tmp_path, 1, 9, 3, 9)  # left by an earlier start
    assert who_is_behind(tmp_path, 2, since=10) == told
    place(tmp_path, 1, 5, 3, 11)
    told = "process 0 is behind: in step 5; the first is in step 5, tick 3"
    assert who_is_behind(tmp_path, 2, since=10) == told
    place(tmp_path, 0, 5, 3, 11)
    told = "no process is behind: all are in step 5, tick 3"
    assert who_is_behind(tmp_path, 2, since=10) == told


def test_a_set_that_was_stopped_ends_with_what_is_no_consequence():
    children = SimpleNamespace(members=[SimpleNamespace(code=130), SimpleNamespace(code=-6)])
    attempt = Attempt(children, grace_seconds=1, say=print, explain=lambda code: None)
    attempt._stopped, attempt._first = True, (1, -6)
    told = "process 0 ended with 130: it was interrupted"
    assert attempt._outcome() == Outcome(130, told, stopped=True)
    # one that was slow to leave, and was killed for it, had been asked too
    children.members[:] = [SimpleNamespace(code=-9), SimpleNamespace(code=77)]
    attempt._first, attempt._killed = (1, 77), [0]
    assert attempt._outcome().code == 77
