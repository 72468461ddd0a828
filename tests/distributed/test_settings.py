"""Settings of several processes that do not fit together: one line, status 2, no waiting."""

import pytest

from tests.run.tiny import command_line, run

ALL = {
    "distributed__coordinator": "127.0.0.1:4000", "distributed__num_processes": 2,
    "distributed__process_id": 0,
}  # fmt: skip
# id -> changed settings, what the line must say
REFUSED = {
    **{
        f"without_{name}": (
            {key: value for key, value in ALL.items() if key != name},
            [f"without {name.replace('__', '.')}:", "several processes need all three"],
        )
        for name in ALL
    },
    "process_beyond_the_last": (
        ALL | {"distributed__process_id": 2},
        ["distributed.process_id=2 of distributed.num_processes=2", "use 0 to 1"],
    ),
    "process_below_the_first": (
        ALL | {"distributed__process_id": -1},
        ["distributed.process_id=-1", "use 0 to 1"],
    ),
    "no_processes": (
        ALL | {"distributed__num_processes": 0},
        ["distributed.num_processes=0", "use 1 or more"],
    ),
    "address_without_port": (
        ALL | {"distributed__coordinator": "node1"},
        ["distributed.coordinator='node1' is not HOST:PORT", "10.0.0.1:61440"],
    ),
    "address_without_host": (
        ALL | {"distributed__coordinator": ":4000"},
        ["distributed.coordinator=':4000' is not HOST:PORT"],
    ),
    "port_that_is_none": (
        ALL | {"distributed__coordinator": "node1:99999"},
        ["distributed.coordinator='node1:99999'", "65535"],
    ),
    "devices_that_cannot_be_shared": (
        ALL | {"mesh__pipe": 3},
        ["3 virtual CPU devices", "2 processes", "--mesh.virtual_devices 4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes, told", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(changes, told, source, tmp_path):
    outcome = run(*command_line(tmp_path / "run", source, **changes))
    assert outcome.status == 2 and len(outcome.err.splitlines()) == 1, outcome
    for words in told:
        assert words in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["generate", "--prompt", "x"], ["export", "--to", "there"]])
def test_work_of_one_process_is_refused(command, source, tmp_path):
    outcome = run(*command, *command_line(tmp_path / "run", source, **ALL))
    assert outcome.status == 2
    assert f"{command[0]} is the work of one process, and 2 were started" in outcome.err
