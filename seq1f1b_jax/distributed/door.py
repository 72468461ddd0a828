"""Where the processes of a run come together before JAX's service begins, on the same port.

JAX's service admits any process by its number: a stray one with the number of another one takes its
place, and a second process 0 on a host shares its port. So process 0 first listens there itself,
and lets in each number once. When all have come it closes, and JAX's service takes the port;
a later process meets that, which does not answer as a door does.
"""

import json
import os
import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.output import NotMet
from seq1f1b_jax.distributed.processes import LOOPBACK, Processes

MARK = "seq1f1b"
RETRY_SECONDS, CONNECT_SECONDS = 0.2, 5.0
ANSWER_BYTES, KNOCK_BYTES = 1 << 12, 1 << 12


@dataclass
class Guest:
    """A process at the door of process 0.

    Attributes:
      received: what it has sent so far.
      index: which process it is, once it has sent that.
      who: on which host it is, and its number there.
    """

    connection: socket.socket
    received: bytes = b""
    index: int | None = None
    who: str = ""


def meet(processes: Processes, *, seconds: float, patience: float) -> None:
    """Return once all processes of the run are there.

    Args:
      processes: of the run, more than one.
      seconds: how long to wait for them.
      patience: how long another run may hold the address: an earlier one that is about to end.

    Raises:
      NotMet: they do not come.
      UserError: this one is not let in, or the address cannot be used.
    """
    deadline = time.monotonic() + seconds
    if processes.index == 0:
        _Door(processes, seconds).wait(deadline)
    else:
        _knock(processes, deadline, seconds, patience)


def address_of(coordinator: str) -> tuple[str, int]:
    """Host and port.

    Example:
      >>> address_of("[::1]:4000"), address_of("node1:4000")
      (('::1', 4000), ('node1', 4000))
    """
    host, _, port = coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def bind_address(coordinator: str) -> str | None:
    """Where process 0 listens: on loopback only, where its address is there; else everywhere.

    Example:
      >>> bind_address("127.0.0.1:4000"), bind_address("node1:4000")
      ('127.0.0.1:4000', None)
    """
    host = coordinator.rpartition(":")[0]
    return coordinator if host in (LOOPBACK, "localhost", "[::1]") else None


class _Door:
    """What process 0 does until all have come."""

    def __init__(self, processes: Processes, seconds: float):
        self._processes, self._seconds = processes, seconds
        self._guests: dict[int, Guest] = {}
        self._selector = selectors.DefaultSelector()

    def wait(self, deadline: float) -> None:
        with _listener(self._processes) as listener, self._selector:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, None)
            try:
                while len(self._guests) < self._processes.count - 1:
                    self._wait_once(listener, deadline)
                for guest in self._guests.values():
                    _answer(guest, {"go": True})
            finally:
                for key in self._selector.get_map().values():
                    if key.data is not None:
                        key.data.connection.close()

    def _wait_once(self, listener: socket.socket, deadline: float) -> None:
        if time.monotonic() > deadline:
            self._give_up()
        for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
            if key.data is None:
                self._open(listener)
            else:
                self._receive(key.data)

    def _open(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it has gone again
            connection, _ = listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, Guest(connection))

    def _receive(self, guest: Guest) -> None:
        try:
            piece = guest.connection.recv(KNOCK_BYTES)
        except OSError:
            piece = b""
        guest.received += piece
        if not piece or len(guest.received) > KNOCK_BYTES:
            return self._leave(guest)
        if guest.index is None and guest.received.endswith(b"\n"):
            self._judge(guest)
        return None

    def _judge(self, guest: Guest) -> None:
        """Let it in, or answer why not; a stranger gets no answer."""
        try:
            sent = json.loads(guest.received)
            index, count, guest.who = int(sent[MARK]), int(sent["count"]), str(sent["who"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return self._leave(guest)
        if reason := self._reason_against(index, count):
            _answer(guest, {"refused": reason})
            return self._leave(guest)
        guest.index = index
        self._guests[index] = guest
        return None

    def _reason_against(self, index: int, count: int) -> str:
        ours = self._processes.count
        if count != ours:
            return f"it counts {count} processes, and process 0 counts {ours}; give all the same"
        if not 0 < index < ours:
            return f"process 0 is here already ({_own_name()}); give each process its own number"
        if index in self._guests:
            taken = self._guests[index].who
            return f"process {index} is here already ({taken}); give each process its own number"
        return ""

    def _leave(self, guest: Guest) -> None:
        self._selector.unregister(guest.connection)
        guest.connection.close()
        if guest.index is not None:
            del self._guests[guest.index]

    def _give_up(self) -> NoReturn:
        missing = sorted(set(range(1, self._processes.count)) - set(self._guests))
        some = ", ".join(map(str, missing[:10])) + ", ..." * (len(missing) > 10)
        raise NotMet(
            f"could not meet the others at {self._processes.coordinator} (by "
            f"{self._processes.found}) within {self._seconds:g} s: process {some} has not come; "
            "see that all are started and can reach this host, and that the port is open"
        )


def _listener(processes: Processes) -> socket.socket:
    host, port = address_of(processes.coordinator)
    try:
        if bind_address(processes.coordinator):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=processes.count)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=processes.count
            )
        return socket.create_server(("", port), backlog=processes.count)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of distributed.coordinator="
            f"{processes.coordinator} ({error.strerror}); stop the program that does, "
            "or give another port"
        ) from error


def _knock(processes: Processes, deadline: float, seconds: float, patience: float) -> None:
    """Ask process 0 to be let in until it answers."""
    stranger_since = None
    while time.monotonic() < deadline:
        try:
            answer = _ask(processes, deadline)
        except OSError:  # nobody is there yet
            answer, stranger_since = None, None
        else:
            if answer is not None:
                break
            stranger_since = stranger_since or time.monotonic()
            if time.monotonic() - stranger_since > patience:
                raise UserError(
                    f"process {processes.index} was not let in: at {processes.coordinator} is a "
                    "run that has all its processes, or another program; give each run an address "
                    "and each process a separate number"
                )
        time.sleep(RETRY_SECONDS)
    else:
        raise NotMet(
            f"could not meet the others at {processes.coordinator} (by {processes.found}) within "
            f"{seconds:g} s; see that all are started, that process 0 is on that host and that "
            "the port is free and open"
        )
    if "refused" in answer:
        raise UserError(f"process {processes.index} was not let in: {answer['refused']}")


def _ask(processes: Processes, deadline: float) -> dict | None:
    """What a door answers; None if something listens that is not a door.

    Raises:
      OSError: nothing listens, or nothing answers in time.
    """
    sent = {MARK: processes.index, "count": processes.count, "who": _own_name()}
    left = max(RETRY_SECONDS, deadline - time.monotonic())
    address = address_of(processes.coordinator)
    with socket.create_connection(address, timeout=min(left, CONNECT_SECONDS)) as connection:
        connection.settimeout(left)
        with suppress(ConnectionError):
            connection.sendall(json.dumps(sent).encode() + b"\n")
            received = b""
            while len(received) < ANSWER_BYTES and (piece := connection.recv(ANSWER_BYTES)):
                received += piece
                if received.endswith(b"\n"):
                    break
            with suppress(ValueError):
                answer = json.loads(received)
                return answer if isinstance(answer, dict) else None
    return None


def _answer(guest: Guest, answer: dict) -> None:
    with suppress(OSError):  # it has gone, which JAX's meeting will notice
        guest.connection.sendall(json.dumps(answer).encode() + b"\n")


def _own_name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
