"""Checkpoints that say what cannot be, that a run deletes meanwhile, or that find no room."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.checkpoint import checkpointer as module
from seq1f1b_jax.training.checkpoint import folder as folders
from seq1f1b_jax.training.checkpoint.checkpointer import Begun, Checkpointer
from seq1f1b_jax.training.checkpoint.read import LOOKS, find_checkpoint, load_state
from seq1f1b_jax.training.checkpoint.record import Vanished

LIKE = {"w": np.zeros(4, np.float32)}


def saved_run(directory, *steps):
    with Checkpointer(directory, keep=9) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"w": np.full(4, step, np.float32)}, meta={"seed": step})
    return directory


def sealed_with(folder, record):
    """Its files agree with each other, whatever they say."""
    (folder / "files.json").unlink()
    folders.seal(folder, record)


def record_of(folder, **changes):
    return json.loads((folder / "meta.json").read_text()) | changes


RECORDS = {
    "a_list": lambda folder: [1, 2],
    "nothing": lambda folder: {},
    "without_a_step": lambda folder: {k: v for k, v in record_of(folder).items() if k != "step"},
    "leaves_of_another_type": lambda folder: record_of(folder, leaves=["w"]),
    "a_leaf_of_no_shape": lambda folder: record_of(folder, leaves={"w": "float32[x]"}),
    "a_leaf_of_no_dtype": lambda folder: record_of(folder, leaves={"w": "number[4]"}),
    "meta_of_another_type": lambda folder: record_of(folder, meta=3),
    "a_layout_of_another_shape": lambda folder: record_of(folder, layout={"x": 1}),
    "kinds_of_what_is_not_there": lambda folder: record_of(folder, kinds={"x": "layer"}),
    "of_another_step": lambda folder: record_of(folder, step=7),
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_that_cannot_be_is_damage_and_the_one_before_is_used(record, tmp_path):
    saved_run(tmp_path, 1, 2)
    sealed_with(tmp_path / "000002", record(tmp_path / "000002"))
    told = []
    assert find_checkpoint(tmp_path, report=told.append).step == 1
    assert len(told) == 1 and "checkpoint of step 2 is damaged" in told[0], told
    assert "meta.json" in told[0]


@pytest.mark.parametrize("name", ["files.json", "meta.json"])
def test_brackets_without_end_are_damage(name, tmp_path):
    saved_run(tmp_path, 1, 2)
    nested = "[" * 100_000 + "]" * 100_000
    (tmp_path / "000002" / name).write_text(nested)
    told = []
    assert find_checkpoint(tmp_path, report=told.append).step == 1
    assert len(told) == 1 and name in told[0]


def test_a_folder_that_was_renamed_is_not_that_step(tmp_path):
    saved_run(tmp_path, 1, 2)
    (tmp_path / "000002").rename(tmp_path / "000009")
    told = []
    assert find_checkpoint(tmp_path, report=told.append).step == 1
    assert told == [
        "checkpoint of step 9 is damaged (by its meta.json it is that of step 2); not used"
    ]


def test_meta_that_is_not_the_callers_is_damage(tmp_path):
    saved_run(tmp_path, 1, 2)
    told = []
    found = find_checkpoint(tmp_path, report=told.append, is_ours=lambda meta: meta["seed"] < 2)
    assert found.step == 1 and "not the record of a run" in told[0]


def test_what_is_listed_lies_in_the_folder(tmp_path):
    saved_run(tmp_path, 1)
    listed = tmp_path / "000001" / "files.json"
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {"/dev/zero": [0, 0]}))
    assert folders.damage(tmp_path / "000001") == "/dev/zero is missing"


# ---- deleted meanwhile


def test_a_reader_takes_the_newest_of_a_run_that_goes_on(tmp_path, monkeypatch):
    """The run commits another one, and deletes the one that is being read, a few times."""
    saved_run(tmp_path, 1, 2, 3, 4)
    ahead = tmp_path / "ahead"
    ahead.mkdir()
    for step in (2, 3, 4):
        (tmp_path / f"{step:06d}").rename(ahead / f"{step:06d}")
    real = folders.damage

    def slow(folder):
        step = int(folder.name)
        if step < 4:
            shutil.move(ahead / f"{step + 1:06d}", tmp_path)
            folders.remove(folder)
        return real(folder)

    monkeypatch.setattr(folders, "damage", slow)
    assert find_checkpoint(tmp_path, report=pytest.fail).step == 4


def test_a_reader_gives_up_in_the_end(tmp_path, monkeypatch):
    saved_run(tmp_path, 1)
    looks = []

    def never_there(folder):
        looks.append(folder)
        folder.rename(tmp_path / f"{len(looks) + 1:06d}")
        return "gone"

    monkeypatch.setattr(folders, "damage", never_there)
    with pytest.raises(Vanished, match="was deleted while it was read: a run is training there"):
        find_checkpoint(tmp_path, report=pytest.fail)
    assert len(looks) == LOOKS


def test_arrays_that_go_while_they_are_read_are_told_so(tmp_path):
    saved_run(tmp_path, 1)
    checkpoint = find_checkpoint(tmp_path)
    folders.remove(tmp_path / "000001")
    with pytest.raises(Vanished, match="000001 was deleted while it was read"):
        load_state(checkpoint, LIKE)


@pytest.mark.parametrize("cut", [False, True], ids=["there", "pruned"])
def test_a_file_system_that_is_sick_is_an_error_and_no_damage(cut, tmp_path, monkeypatch):
    saved_run(tmp_path, 1, 2)

    def stale(path):
        if cut:
            shutil.rmtree(tmp_path / "000002", ignore_errors=True)
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_size_and_crc", stale)
        told = "000001" if cut else "000002"
        with pytest.raises(UserError, match=rf"cannot read the checkpoint .*{told} \(Stale file"):
            find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path).step == (1 if cut else 2)


def test_a_folder_that_goes_while_its_files_are_listed_is_no_damage(tmp_path, monkeypatch):
    saved_run(tmp_path, 1, 2)
    real = folders._files

    def pruned(folder):
        if folder.name == "000002":
            folders.remove(folder)
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))
        return real(folder)

    monkeypatch.setattr(folders, "_files", pruned)
    assert find_checkpoint(tmp_path, report=pytest.fail).step == 1


# ---- writes that take too long


class Writing:
    """A save of Orbax that ends with an error of the storage, or takes a while."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def result(self, timeout):
        if (outcome := self.outcomes.pop(0)) == "late":
            time.sleep(timeout)
            raise TimeoutError
        raise outcome


@pytest.mark.parametrize(("count", "outcomes"), [(1, ()), (2, ()), (2, ("late", "late"))])
def test_a_time_out_of_the_storage_is_a_failure(count, outcomes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    error = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer._group = SimpleNamespace(count=count, peek=lambda name: None)
        with pytest.raises(TimeoutError, match="Connection timed out"):
            checkpointer._written(Begun(Writing(*outcomes, error)), 7)


# ---- links


def test_a_link_in_the_place_of_a_save_goes_and_what_it_leads_to_stays(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    (directory / "000001.saving").symlink_to(mine)
    with Checkpointer(directory, keep=2) as checkpointer:
        (directory / "000002.saving").symlink_to(mine)
        checkpointer.save(2, LIKE, meta={})
    assert [path.name for path in directory.iterdir()] == ["000002"]
    assert [path.name for path in mine.iterdir()] == ["file"]


FAILING = """
import resource, sys
import numpy as np
from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
limit = int(sys.argv[2])
try:
    with Checkpointer(sys.argv[1], keep=1) as checkpointer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        values = np.random.default_rng(0).normal(size=(20, 5000))
        checkpointer.save(7, {f"w{i}": row for i, row in enumerate(values)}, meta={})
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
"""


@pytest.mark.parametrize("limit", [100, 2000, 30_000])
def test_a_full_disk_is_one_line_with_its_cause(tmp_path, limit):
    """Whatever Orbax was writing: its metadata, an index, or values."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING, tmp_path, str(limit)], capture_output=True, text=True,
        timeout=120, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [line for line in done.stderr.splitlines() if "WARNING:jax_plugins" not in line]
    assert lines == [
        f"error: checkpoint of step 7 was not written to {tmp_path} (File too large); make space "
        "there or set train.output_dir; committed steps: ()"
    ]
