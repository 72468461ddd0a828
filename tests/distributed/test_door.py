"""Who is let in at the door of process 0, and what the others are told."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import Processes
from seq1f1b_jax.distributed.door import meet
from tests.distributed.processes import free_address


class Coming(threading.Thread):
    """A process that comes to the door, as a thread; `refused` is what it was told."""

    def __init__(self, address, count, index, *, seconds=20.0, patience=20.0):
        super().__init__(daemon=True)
        self.processes = Processes(count, index, address)
        self.seconds, self.patience, self.refused = seconds, patience, None
        self.start()

    def run(self):
        try:
            meet(self.processes, seconds=self.seconds, patience=self.patience)
        except UserError as error:
            self.refused = str(error)

    def end(self):
        self.join(30)
        assert not self.is_alive(), "it waits for ever"
        return self.refused


def knock(address, index, count):
    """Come as a process does, and before whoever comes after this call."""
    host, port = address.split(":")
    deadline = time.monotonic() + 20
    while True:
        try:
            connection = socket.create_connection((host, int(port)), timeout=20)
            break
        except OSError:  # the door is not open yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
    said = {"seq1f1b": index, "count": count, "who": "process 7 on gpu1"}
    connection.sendall(json.dumps(said).encode() + b"\n")
    return connection


def test_all_meet_whoever_comes_first():
    address = free_address()
    early = [Coming(address, 4, index) for index in (2, 3)]
    late = [Coming(address, 4, index) for index in (0, 1)]
    assert [coming.end() for coming in early + late] == [None] * 4


def test_a_number_is_let_in_once_and_the_run_goes_on():
    address = free_address()
    first = Coming(address, 3, 0)
    with knock(address, 1, 3) as one:
        assert Coming(address, 3, 1).end() == (
            "process 1 was not let in: process 1 is here already (process 7 on gpu1); give each "
            "process its own number"
        )
        two = Coming(address, 3, 2)
        assert json.loads(one.recv(100)) == {"go": True}
    assert [coming.end() for coming in (first, two)] == [None] * 2


def test_a_number_is_free_again_when_its_process_has_gone():
    address = free_address()
    first = Coming(address, 3, 0)
    knock(address, 1, 3).close()
    one, two = Coming(address, 3, 1), Coming(address, 3, 2)
    assert [coming.end() for coming in (first, one, two)] == [None] * 3


def test_who_counts_otherwise_and_who_is_no_process_are_sent_away():
    address = free_address()
    first = Coming(address, 2, 0)
    assert "it counts 3 processes, and process 0 counts 2" in Coming(address, 3, 1).end()
    host, port = address.split(":")
    for says in (b"GET / HTTP/1.1\r\n\r\n", b'{"seq1f1b": Infinity}', b"[" * 4000):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(says + b"\n")
            assert connection.recv(100) == b""
    assert Coming(address, 2, 1).end() is None and first.end() is None


def test_who_has_not_come_is_named():
    address = free_address()
    first = Coming(address, 5, 0, seconds=1.0)
    with knock(address, 2, 5):
        assert "within 1 s: process 1, 3, 4 has not come; see that" in first.end()
    late = Coming(address, 5, 1, seconds=0.5).end()
    assert f"could not meet the others at {address} (by settings) within 0.5 s" in late


def test_a_second_process_0_is_refused():
    address = free_address()
    first = Coming(address, 3, 0)
    with knock(address, 2, 3):
        told = Coming(address, 3, 0).end()
        assert told.startswith("process 0 cannot listen on port ")
        assert "Address already in use" in told
        assert Coming(address, 3, 1).end() is None and first.end() is None


@contextmanager
def stranger(address, says):
    """A server that is no door: it answers with bytes, or ends the connection."""
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(says)

        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("says", [b"", b"\0\0\x12\4\0\0\0\0\0", b"[1]\n"], ids=repr)
def test_a_run_under_way_lets_nobody_in(says):
    address = free_address()
    with stranger(address, says):
        told = Coming(address, 2, 1, patience=0.5).end()
    assert told.startswith(f"process 1 was not let in: at {address} is a run that has all its")


def test_an_earlier_run_that_ends_is_waited_for():
    address = free_address()
    with stranger(address, b""):
        late = Coming(address, 2, 1)
        time.sleep(0.3)  # it has come meanwhile, most likely
    first = Coming(address, 2, 0)
    assert late.end() is None and first.end() is None
