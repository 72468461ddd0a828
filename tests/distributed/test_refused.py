"""Processes that would not do the same work are refused by all of them, in one line."""

import time

import pytest

from tests.distributed.conftest import TWO
from tests.distributed.processes import Processes, not_sharing, with_64_bits


def refusals(cache, folder, source, own, **changes):
    """The last line that each of two processes wrote; both must have refused."""
    with Processes(cache, 2, folder, source, own=own, **TWO, **changes) as run:
        assert run.end() == [2, 2], run.told()
        assert not (folder / "metrics.jsonl").exists()
        lines = [run.told(index).splitlines() for index in (0, 1)]
        assert all(sum(line.startswith("error:") for line in told) == 1 for told in lines), lines
        return [next(line for line in told if line.startswith("error:")) for told in lines]


def test_another_setting_in_one_process(cache, source, tmp_path):
    own = {1: {"optimizer__learning_rate": 0.5}}
    told = refusals(cache, tmp_path / "run", source, own)
    for index, line in enumerate(told):
        assert line.startswith(f"error: [process {index} of 2] the processes of this run are not")
        assert "--optimizer.learning_rate is 0.5 in process 1 and 0.0" in line


@pytest.mark.slow
def test_another_variable_in_one_process(cache, source, tmp_path):
    told = refusals(cache, tmp_path / "run", source, None, patches={1: with_64_bits})
    difference = "JAX_ENABLE_X64 is True in process 1 and False in process 0"
    assert all(difference in line for line in told)


@pytest.mark.slow
def test_another_text_in_one_process(cache, source, tmp_path):
    other = tmp_path / "other" / source.name
    other.parent.mkdir()
    other.write_text(source.read_text(encoding="utf-8")[1:], encoding="utf-8")
    told = refusals(cache, tmp_path / "run", source, {1: {"data__source": other}})
    assert all("data (" in line and "in process 1" in line for line in told)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_one_process_without_the_data_takes_the_other_along(index, cache, source, tmp_path):
    own = {index: {"data__source": tmp_path / "nowhere"}}
    with Processes(cache, 2, tmp_path / "run", source, own=own, **TWO) as run:
        began = time.monotonic()
        assert run.end() == [2, 2], run.told()
        assert time.monotonic() - began < 60
        assert f"error: [process {index} of 2] cannot read " in run.told(index)
        assert f"process {index} was refused, so this one ends too: cannot read " in run.told()


@pytest.mark.slow
def test_evaluation_compares_the_processes_too(by_two, cache, source):
    own = {1: {"train__eval_sequences": 7}}
    with Processes(cache, 2, by_two[0], source, own=own, command=("evaluate",), **TWO) as run:
        assert run.end() == [2, 2], run.told()
        assert "--train.eval_sequences is 7 in process 1" in run.told()


@pytest.mark.slow
def test_folders_that_are_not_the_same_are_refused(cache, source, tmp_path):
    own = {1: {"train__output_dir": tmp_path / "elsewhere"}}
    patches = dict.fromkeys((0, 1), not_sharing)
    with Processes(cache, 2, tmp_path / "run", source, own=own, patches=patches, **TWO) as run:
        assert run.end() == [2, 2], run.told()
        assert "elsewhere of process 1" in run.told(1) and "is not the folder of" in run.told(1)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.slow
def test_a_process_without_a_device_of_the_mesh(cache, source, tmp_path):
    told = refusals(cache, tmp_path / "run", source, None, mesh__virtual_devices=8)
    assert all("process 1 has no device of the mesh" in line for line in told)


@pytest.mark.slow
def test_one_process_refuses_its_own_settings_and_the_other_does_not_wait_long(
    cache, source, tmp_path
):
    own = {1: {"model__num_heads": 3}}
    patience = {"distributed__initialization_timeout": 5}
    with Processes(cache, 2, tmp_path / "run", source, own=own, **TWO | patience) as run:
        assert run.end() == [76, 2], run.told()
        assert "model.model_dim=16" in run.told(1)
        assert "could not meet the others at 127.0.0.1" in run.told(0)
        assert "within 5 s: process 1 has not come" in run.told(0)
