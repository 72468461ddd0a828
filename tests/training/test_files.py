"""Files of a run: whole lines on a full disk, and never what a link leads to."""

import os
import resource
from contextlib import contextmanager

import pytest

from seq1f1b_jax.data.tokenizer.from_json import byte_level_bytes
from seq1f1b_jax.host.files import LineFile, first_free, replace_file
from seq1f1b_jax.host.lock import LOCK, run_lock
from seq1f1b_jax.training.run_folder import write_recipe, write_tokenizer


@contextmanager
def no_file_beyond(num_bytes):
    """As if the disk were full once a file has so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_wait_while_the_disk_is_full_and_no_half_of_one_stays(tmp_path):
    path, said = tmp_path / "lines", []
    lines = LineFile(path, say=said.append)
    with no_file_beyond(10):
        for line in ("one", "two", "three", "four"):
            lines.add(line)
        assert path.read_text() == "one\ntwo\n"
        lines.catch_up()  # still no room
    lines.add("five")  # not before the next checkpoint
    assert path.read_text() == "one\ntwo\n"
    lines.catch_up()
    lines.add("six")
    assert path.read_text() == "one\ntwo\nthree\nfour\nfive\nsix\n"
    with no_file_beyond(10):
        lines.add("seven")
    lines.close()
    assert path.read_text().endswith("six\nseven\n")
    assert len(said) == 1 and f"cannot write {path} (File too large)" in said[0]


def test_a_line_that_a_kill_cut_is_ended(tmp_path):
    path = tmp_path / "lines"
    path.write_text("half a li")
    lines = LineFile(path, say=pytest.fail)
    lines.add("whole")
    lines.close()
    assert path.read_text() == "half a li\nwhole\n"


# ---- links


@pytest.fixture
def victim(tmp_path):
    """A file that no run may touch, where all the links of these tests lead."""
    path = tmp_path / "victim"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


def test_lines_are_added_to_no_link(victim, tmp_path):
    (tmp_path / "lines").symlink_to(victim)
    with pytest.raises(ValueError, match="lines is a link, or not a file.* move it away"):
        LineFile(tmp_path / "lines", say=print)


def test_a_link_is_not_the_lock_of_a_run(victim, tmp_path):
    (tmp_path / LOCK).symlink_to(victim)
    with pytest.raises(ValueError, match=f"{LOCK} is a link"), run_lock(tmp_path):
        pass


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "lines")
    with pytest.raises(ValueError, match="lines is a link, or not a file"):
        LineFile(tmp_path / "lines", say=print)


def test_whole_files_take_the_place_of_links(victim, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    names = ["config.yaml", "config.yaml.new", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        (run / name).symlink_to(victim)
    write_recipe(run, "train: {}")
    write_tokenizer(run, byte_level_bytes())
    assert (run / "config.yaml").read_text() == "train: {}"
    assert sorted(os.listdir(run)) == [name for name in sorted(names) if not name.endswith(".new")]
    assert not any(path.is_symlink() for path in run.iterdir())


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"before")
    with no_file_beyond(3), pytest.raises(ValueError, match="cannot write .*file .File too large"):
        replace_file(path, b"afterwards")
    assert path.read_bytes() == b"before"


def test_the_first_name_that_is_free(tmp_path):
    (tmp_path / "x.1").symlink_to("nowhere")
    assert first_free(tmp_path / "x").name == "x.2"
