"""One run per folder, in this process and in others; a dead holder holds nothing."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import ALONE
from seq1f1b_jax.host.lock import LOCK, check_shared, run_lock
from tests.run.tiny import command_line, run

HOLD = """
import sys, time
from pathlib import Path
from seq1f1b_jax.host.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_second_run_is_refused_and_told_who_is_first(tmp_path, source):
    folder = tmp_path / "run"
    with run_lock(folder):
        outcome = run(*command_line(folder, source))
        assert outcome.status == 2 and len(outcome.err.splitlines()) == 1
        assert f"another run is in {folder}: process {os.getpid()} on {socket.gethostname()}" in (
            outcome.err
        )
        assert os.listdir(folder) == [LOCK]
    with run_lock(folder):
        pass


def test_a_holder_that_was_killed_holds_nothing(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert program.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {program.pid} on"), run_lock(tmp_path):
            pass
        program.send_signal(signal.SIGKILL)
        program.wait()
        with run_lock(tmp_path):
            assert (tmp_path / LOCK).is_file()
    finally:
        program.kill()
        program.communicate()


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*Not a directory.*set train.output_dir"):
        with run_lock(tmp_path / "file"):
            pass
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        with run_lock(tmp_path / "file" / "run"):
            pass


def test_a_full_disk_keeps_nobody_out(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with run_lock(tmp_path), pytest.raises(UserError, match="it has only just begun"):
        with run_lock(tmp_path):
            pass


class Second:
    """Process 1 of a group whose process 0 holds another folder."""

    index = 1

    def __init__(self, theirs: Path):
        self.text = (theirs / LOCK).read_text()

    def first(self, name, make):
        return self.text

    def barrier(self, name):
        """Process 0 has come."""


def test_a_folder_that_is_not_shared_is_refused(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with run_lock(theirs):
        told = f"of process 1 .*/ours.* is not .*process {os.getpid()} on"
        with pytest.raises(UserError, match=told):
            check_shared(ours, Second(theirs), seconds=0.1)
        with run_lock(ours):
            (ours / LOCK).write_text((ours / LOCK).read_text().replace('"pid"', '"pid" '))
            with pytest.raises(UserError, match="storage that all of them share"):
                check_shared(ours, Second(theirs), seconds=0.1)
        check_shared(theirs, Second(theirs), seconds=0.1)
        check_shared(theirs, ALONE)


def test_a_file_that_other_hosts_see_late_is_waited_for(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with run_lock(theirs):
        second = Second(theirs)
        late = threading.Timer(0.3, lambda: theirs.rename(ours))
        late.start()
        check_shared(ours, second, seconds=20)
        late.join()
