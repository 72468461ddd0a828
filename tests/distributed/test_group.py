"""What processes tell each other, with a stand-in for JAX's coordination service."""

import threading

import pytest
from jax.errors import JaxRuntimeError

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import ALONE, Group
from seq1f1b_jax.distributed.door import bind_address


class Service:
    """Keys and values as the coordination service keeps them, for threads instead of processes."""

    def __init__(self, count):
        self.values = {}
        self.changed = threading.Condition()
        self.barriers = {}
        self.count = count

    def key_value_set(self, key, value):
        with self.changed:
            if key in self.values:
                raise JaxRuntimeError(f"ALREADY_EXISTS: {key}")
            self.values[key] = value
            self.changed.notify_all()

    def key_value_try_get(self, key):
        with self.changed:
            if key not in self.values:
                raise JaxRuntimeError(f"NOT_FOUND: {key}")
            return self.values[key]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.values[key]

    def wait_at_barrier(self, key, milliseconds):
        with self.changed:
            barrier = self.barriers.setdefault(key, threading.Barrier(self.count))
        barrier.wait(milliseconds / 1000)


def groups(count):
    """The processes of one run."""
    service = Service(count)
    return [Group(index, count, service) for index in range(count)]


def together(members, work):
    """What `work(group)` returns or raises in every process, by its index."""
    results = [None] * len(members)

    def do(index):
        try:
            results[index] = work(members[index])
        except (UserError, ZeroDivisionError, JaxRuntimeError) as error:
            results[index] = error

    threads = [
        threading.Thread(target=do, args=(index,), daemon=True) for index in range(len(members))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a process waits for ever"
    return results


def test_all_get_what_the_first_makes_and_only_it_makes_it():
    made = []

    def work(group):
        values = [group.first("answer", lambda: made.append(group.index) or {"n": 7})]
        return [*values, group.first("answer", lambda: [group.index])]  # the same name again

    assert together(groups(3), work) == [[{"n": 7}, [0]]] * 3
    assert made == [0]
    assert ALONE.first("answer", lambda: 42) == 42


def test_what_the_first_refuses_all_refuse():
    def refuse():
        raise UserError("the disk is full")

    told = together(groups(3), lambda group: group.first("folder", refuse))
    assert [(type(error), str(error)) for error in told] == [(UserError, "the disk is full")] * 3


def test_a_defect_of_the_first_does_not_leave_the_others_waiting():
    told = together(groups(2), lambda group: group.first("folder", lambda: 1 // 0))
    assert isinstance(told[0], ZeroDivisionError)
    assert isinstance(told[1], UserError) and "process 0 could not go on (folder)" in str(told[1])


def test_gather_is_by_index_and_calls_of_one_name_do_not_mix():
    def work(group):
        return [group.gather("name", f"{group.index}.{call}") for call in range(2)]

    assert together(groups(3), work) == [[["0.0", "1.0", "2.0"], ["0.1", "1.1", "2.1"]]] * 3
    assert ALONE.gather("name", "me") == ["me"]


def test_the_first_note_stands():
    first, second = groups(2)
    assert second.peek("last step") is None
    assert second.post("last step", "7") == "7"
    assert first.post("last step", "8") == "7"
    assert first.peek("last step") == second.peek("last step") == "7"


def test_a_peer_that_does_not_come_ends_the_wait():
    first, second = groups(2)
    with pytest.raises(JaxRuntimeError, match="DEADLINE"):
        second.first("folder", lambda: None, seconds=0.01)
    with pytest.raises(JaxRuntimeError, match="DEADLINE"):
        first.gather("fingerprint", "x", seconds=0.01)


@pytest.mark.parametrize(
    "coordinator, bound",
    {
        "127.0.0.1:4000": "127.0.0.1:4000", "localhost:4000": "localhost:4000",
        "[::1]:4000": "[::1]:4000", "10.0.0.1:4000": None, "node1:4000": None,
    }.items(),
)  # fmt: skip
def test_a_coordinator_on_this_machine_listens_to_this_machine_only(coordinator, bound):
    assert bind_address(coordinator) == bound
