"""The watchdog: what it calls stalled or lost, whom it names, and with which status it ends."""

import errno
import json
import threading
import time
from unittest.mock import Mock

import pytest
from jax.errors import JaxRuntimeError

from seq1f1b_jax.config import UserError, WatchdogConfig
from seq1f1b_jax.distributed import ALONE
from seq1f1b_jax.distributed.exits import LOST_PEER, STALLED, USER_ERROR
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.training.faults import heartbeat
from seq1f1b_jax.training.faults import watchdog as module
from seq1f1b_jax.training.faults.watchdog import Watchdog


class Ended(BaseException):
    """Stands in for the end of the process."""


class Peers:
    """A group whose other processes say what a test lets them say."""

    index, count = 0, 3

    def __init__(self):
        self.notes, self.is_reachable = {}, True

    def publish(self, name, text):
        if not self.is_reachable:
            raise JaxRuntimeError("UNAVAILABLE: socket closed")
        self.notes[self.index] = text

    def published(self, name):
        return dict(self.notes)

    def say(self, process, **fields):
        self.notes[process] = json.dumps({"process": process} | fields)


@pytest.fixture
def ended(monkeypatch):
    """Statuses that processes ended with; what they said is on standard error."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(module, "BLAME_SECONDS", 0.3)
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    statuses = []

    def end(status):
        statuses.append(status)
        raise Ended

    end.statuses = statuses
    return end


def hear(dog, now):
    """What its two threads do at a time."""
    dog._heartbeats.exchange(now, dog.heartbeat())
    dog._look(now)


def watchdog_of(group, folder, end, *, silence=30.0, **settings) -> Watchdog:
    return Watchdog(WatchdogConfig(**settings), group, folder, silence=silence, end=end)


def test_the_limit_follows_the_median_of_steps(tmp_path, ended):
    dog = watchdog_of(ALONE, tmp_path, ended, factor=10, min_seconds=0.01, first_seconds=7)
    assert dog.limit == 7
    dog._steps.extend([0.1, 0.2, 9.0])
    assert dog.limit == 2.0
    assert watchdog_of(ALONE, tmp_path, ended, first_seconds=3).limit == 3


def test_a_stalled_step_is_told_with_action_and_stacks(tmp_path, ended, capfd):
    dog = watchdog_of(ALONE, tmp_path, ended, first_seconds=0.05)
    dog.actions.finish(Op.F, 1, 3, 2)
    dog.begin(41)
    time.sleep(0.06)
    with pytest.raises(Ended):
        dog._stalled(0.06)
    told = capfd.readouterr().err
    assert ended.statuses == [STALLED]
    assert "step 41 has taken" in told and "last finished F2.1 on stage 3" in told
    assert "test_a_stalled_step_is_told" in told  # the stack
    written = json.loads((tmp_path / "watchdog" / "process-0.json").read_text())
    assert written["step"] == 41 and "F2.1" in written["cell"]
    assert (tmp_path / "watchdog" / "process-0.stacks.txt").stat().st_size > 0


def test_a_stalled_step_ends_where_nothing_can_be_written(tmp_path, ended):
    (tmp_path / "watchdog").write_text("a file where a folder should be")
    dog = watchdog_of(ALONE, tmp_path, ended, first_seconds=0.05)
    dog.begin(41)
    with pytest.raises(Ended):
        dog._stalled(0.06)
    assert ended.statuses == [STALLED]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sick_file_system_keeps_nobody_from_its_end(tmp_path, ended, capfd, monkeypatch):
    dog, stale = watchdog_of(Peers(), tmp_path, ended), OSError(errno.ESTALE, "Stale file handle")
    monkeypatch.setattr(module, "committed_steps", Mock(side_effect=stale))
    with pytest.raises(Ended):
        dog._lost(1, "it has been silent")
    assert "its checkpoints cannot be listed (Stale file handle)" in capfd.readouterr().err
    monkeypatch.setattr(module, "DESCRIBE_SECONDS", 0.05)
    hangs = Mock(side_effect=lambda _: wait_for(lambda: STALLED in ended.statuses))
    monkeypatch.setattr(module, "committed_steps", hangs)
    with pytest.raises(Ended):
        dog._stalled(0.06)
    assert ended.statuses[:2] == [LOST_PEER, STALLED]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_the_watchdog_leaves_no_run_unwatched(tmp_path, ended, capfd, monkeypatch):
    with watchdog_of(Peers(), tmp_path, ended) as dog:
        monkeypatch.setattr(dog, "_look", lambda now: 1 // 0)
        wait_for(lambda: ended.statuses)
    assert ended.statuses == [STALLED] and "ZeroDivisionError" in capfd.readouterr().err


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_ends_a_step_and_only_a_step(tmp_path, ended, capfd):
    dog = watchdog_of(ALONE, tmp_path, ended, first_seconds=0.2, min_seconds=0.2, factor=1.0)
    with dog:
        time.sleep(0.4)  # no step has begun
        assert ended.statuses == []
        dog.begin(0)
        dog.finish()
        time.sleep(0.4)
        assert ended.statuses == []
        dog.begin(1)
        wait_for(lambda: ended.statuses)
    assert ended.statuses == [STALLED]
    assert "step 1 has taken" in capfd.readouterr().err


def test_a_compilation_inside_a_step_is_not_counted(tmp_path, ended):
    with watchdog_of(ALONE, tmp_path, ended, first_seconds=0.1) as dog:
        dog.begin(0)
        with dog.paused():
            time.sleep(0.3)
        dog.finish()
    assert ended.statuses == [] and dog._steps[0] < 0.1


def test_one_that_is_switched_off_lets_steps_be(tmp_path, ended):
    with watchdog_of(ALONE, tmp_path, ended, enabled=False, first_seconds=0.01) as dog:
        dog.begin(0)
        time.sleep(0.2)
    assert ended.statuses == []


def test_a_silent_process_is_named_with_its_place(tmp_path, ended, capfd):
    peers = Peers()
    dog = watchdog_of(peers, tmp_path, ended, silence=5.0)
    peers.say(1, step=7, beat=1)
    peers.say(2, step=6, beat=1, cell="B1.0 on stage 2")
    hear(dog, 100.0)
    peers.say(1, step=7, beat=2)
    hear(dog, 104.9)
    assert ended.statuses == []
    peers.say(1, step=7, beat=3)
    with pytest.raises(Ended):
        hear(dog, 105.1)
    told = capfd.readouterr().err
    assert ended.statuses == [LOST_PEER]
    assert "process 2 is lost" in told and "in step 6, last finished B1.0 on stage 2" in told
    assert "silent for 5 s" in told


def test_after_this_process_slept_nobody_counts_as_silent(tmp_path, ended):
    peers = Peers()
    dog = watchdog_of(peers, tmp_path, ended, silence=5.0)
    peers.say(1, beat=1)
    hear(dog, 100.0)
    dog._heartbeats.forgive(1000.0)
    hear(dog, 1000.0)
    assert ended.statuses == []


def test_a_process_that_fails_tells_why_and_the_others_name_it(tmp_path, ended, capfd):
    peers = Peers()
    dog = watchdog_of(peers, tmp_path, ended)
    with pytest.raises(ValueError), dog:
        raise ValueError("loss nan")
    mine = json.loads(peers.notes[0])
    assert mine["gone"] == "ValueError: loss nan"
    other = watchdog_of(peers, tmp_path, ended)
    peers.say(1, gone="ValueError: loss nan", step=3)
    with pytest.raises(Ended):
        hear(other, 1.0)
    assert "process 1 is lost" in capfd.readouterr().err and ended.statuses == [LOST_PEER]


def test_a_refused_process_takes_the_others_along_without_a_restart(tmp_path, ended, capfd):
    peers = Peers()
    with pytest.raises(UserError), watchdog_of(peers, tmp_path, ended):
        raise UserError("no file x; give another")
    mine = json.loads(peers.notes[0])
    assert (mine["gone"], mine["status"]) == ("no file x; give another", USER_ERROR)
    other = watchdog_of(peers, tmp_path, ended)
    peers.say(2, gone=mine["gone"], status=mine["status"])
    with pytest.raises(Ended):
        hear(other, 1.0)
    assert "process 2 was refused, so this one ends too: no file x" in capfd.readouterr().err
    assert ended.statuses == [USER_ERROR]


def test_an_exchange_that_failed_by_a_refusal_is_a_refusal(tmp_path, ended, capfd):
    peers = Peers()
    peers.say(1, gone="no file x", status=USER_ERROR)
    dog = watchdog_of(peers, tmp_path, ended)
    dog._stop.set()  # as if its thread had not heard of it yet
    with pytest.raises(Ended), dog:
        raise JaxRuntimeError("UNKNOWN: connection closed by peer")
    assert "process 1 was refused, so this one ends too: no file x" in capfd.readouterr().err
    assert ended.statuses == [USER_ERROR]


def test_a_refusal_that_came_here_too_is_told_once(tmp_path, ended, capfd):
    peers = Peers()
    peers.say(1, gone="no file x", status=USER_ERROR)
    dog = watchdog_of(peers, tmp_path, ended)
    dog._stop.set()  # its thread looks below, after the refusal
    with pytest.raises(UserError), dog:
        raise UserError("no file x")
    hear(dog, 1.0)
    assert ended.statuses == [] and capfd.readouterr().err == ""


def test_a_lost_coordinator_is_process_0(tmp_path, ended, capfd):
    peers = Peers()
    dog = watchdog_of(peers, tmp_path, ended)
    peers.is_reachable = False
    dog._heartbeats.start()
    wait_for(lambda: dog._heartbeats.broken)
    with pytest.raises(Ended):
        dog._look(time.monotonic())
    told = capfd.readouterr().err
    assert "process 0 is lost: its coordination service does not answer (UNAVAILABLE" in told
    assert ended.statuses == [LOST_PEER]


class Stopped(Peers):
    """A group whose process 0 stands still after a while: a call to its service does not return."""

    index = 1

    def __init__(self):
        super().__init__()
        self.beats = 0
        self.stands_still, self.goes_on = threading.Event(), threading.Event()

    def published(self, name):
        if self.stands_still.is_set():
            self.goes_on.wait()
        self.beats += 1
        for index in (0, 2):
            self.say(index, step=7, beat=self.beats)
        return super().published(name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_service_that_stands_still_is_process_0(tmp_path, ended, capfd, monkeypatch):
    monkeypatch.setattr(heartbeat, "PARTING_SECONDS", 0.1)
    peers = Stopped()
    with watchdog_of(peers, tmp_path, ended, silence=0.5) as dog:
        wait_for(lambda: 2 in dog._heartbeats.latest)
        peers.stands_still.set()
        wait_for(lambda: ended.statuses)
    peers.goes_on.set()
    told = capfd.readouterr().err
    assert ended.statuses == [LOST_PEER]
    assert "process 0 is lost, last heard of in step 7: it has been silent for" in told


def test_a_failed_exchange_is_blamed_on_who_went_silent(tmp_path, ended, capfd):
    peers = Peers()
    dog = watchdog_of(peers, tmp_path, ended)
    peers.say(1, step=7, beat=1)
    dog._heartbeats.start()
    with pytest.raises(Ended):
        dog._blame()
    dog._heartbeats.stop()
    assert "process 1 is lost" in capfd.readouterr().err and ended.statuses == [LOST_PEER]
