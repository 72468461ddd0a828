"""Processes that are not alike are told apart before they hang."""

from dataclasses import replace

import pytest

from seq1f1b_jax.config import Config, DistributedConfig, UserError
from seq1f1b_jax.distributed.fingerprint import (
    check_same,
    code_hash,
    differences,
    file_hash,
    settings_of,
)
from tests.distributed.test_group import groups, together


def test_the_line_names_every_process_and_part():
    told = together(
        groups(3),
        lambda group: check_same(
            group, {"jax": "1.0", "--model.dim": 8 + group.index // 2}, clock=lambda: 100.0
        ),
    )
    assert all(isinstance(error, UserError) for error in told)
    assert {str(error) for error in told} == {
        "the processes of this run are not alike: --model.dim is 9 in process 2 and 8 in process "
        "0; start all of them with the same code, settings and data"
    }


def test_equal_processes_are_let_through_and_a_clock_that_is_off_is_a_warning():
    clocks = [1000.0, 1004.0, 940.0]
    told = together(
        groups(3), lambda group: check_same(group, {"x": 1}, clock=lambda: clocks[group.index])
    )
    assert told == [["the clock of process 2 differs by -60 s from that of process 0"]] * 3


def test_parts_that_one_process_lacks_are_told_too():
    parts = [{"data (kind)": "text"}, {"data (kind)": "tokens", "data (dtype)": "uint16"}]
    assert differences(parts) == [
        "data (kind) is tokens in process 1 and text in process 0",
        "data (dtype) is uint16 in process 1 and not there in process 0",
    ]
    assert differences(parts[::-1])[1] == (
        "data (dtype) is not there in process 1 and uint16 in process 0"
    )


def test_long_values_are_cut():
    [line] = differences([{"x": "a" * 100}, {"x": "b" * 100}])
    assert line == f"x is {'b' * 57}... in process 1 and {'a' * 57}... in process 0"


def test_settings_are_all_but_the_number_of_the_process():
    first, second = (
        settings_of(replace(Config(), distributed=DistributedConfig(process_id=index)))
        for index in (0, 1)
    )
    assert first == second and "--model.num_layers" in first
    assert "--distributed.process_id" not in first


@pytest.mark.parametrize("change", ["edit", "rename"])
def test_another_source_is_another_code(change, tmp_path, monkeypatch):
    from seq1f1b_jax.distributed import fingerprint

    package = tmp_path / "seq1f1b_jax" / "distributed"
    package.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(fingerprint, "__file__", str(package / "fingerprint.py"))
    (package / "a.py").write_text("x = 1\n")
    before = code_hash()
    if change == "edit":
        (package / "a.py").write_text("x = 2\n")
    else:
        (package / "a.py").rename(package / "b.py")
    assert code_hash() != before


def test_a_file_and_no_file_are_told_apart(tmp_path):
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    paths = [None, tmp_path / "a.py", tmp_path / "b.py"]
    assert len({file_hash(path and str(path)) for path in paths}) == 3
