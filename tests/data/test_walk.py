"""Folders with links: everything once, nothing twice, and what is left out is counted."""

import os

import pytest

from seq1f1b_jax.data import load_corpus
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.data.text import (
    AROUND,
    HIDDEN_FILE,
    HIDDEN_FOLDER,
    NO_FILE,
    SAME_FILE,
    SAME_FOLDER,
    walk_folder,
)
from tests.data.prepared import documents


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def found(root):
    walk = walk_folder(root)
    return [path.relative_to(root).as_posix() for path in walk.files], dict(walk.left_out)


def test_a_linked_folder_is_read_under_its_own_name(tmp_path):
    make(tmp_path, "in/a.txt", "in/z.txt", "elsewhere/x.txt", "elsewhere/y/b.txt")
    (tmp_path / "in" / "more").symlink_to("../elsewhere")
    assert found(tmp_path / "in") == (["a.txt", "more/x.txt", "more/y/b.txt", "z.txt"], {})
    assert load_corpus(str(tmp_path / "in")).num_files == 4
    prepare(PrepareJob([str(tmp_path / "in")], tmp_path / "out"))
    expected = ["in/a.txt", "elsewhere/x.txt", "elsewhere/y/b.txt", "in/z.txt"]
    assert documents(tmp_path / "out") == expected


CYCLES = {
    "itself": ({"in/b/loop": "."}, {SAME_FOLDER: 1}),
    "root": ({"in/b/loop": ".."}, {SAME_FOLDER: 1}),
    "above": ({"in/b/loop": "../.."}, {AROUND: 1}),
    "two": ({"in/left": "../other", "other/right": "../in"}, {SAME_FOLDER: 1}),
    "inner-first": ({"in/a1": "../other/deep", "in/a2": "../other"}, {}),
    "outer-first": ({"in/a1": "../other", "in/a2": "../other/deep"}, {SAME_FOLDER: 1}),
    "same-twice": ({"in/a1": "../other", "in/a2": "../other"}, {SAME_FOLDER: 1}),
    "own-folder": ({"in/again": "b"}, {SAME_FOLDER: 1}),
}


@pytest.mark.parametrize(("links", "left_out"), CYCLES.values(), ids=CYCLES)
def test_cycles_end_and_nothing_is_read_twice(tmp_path, links, left_out):
    make(tmp_path, "in/b/one.txt", "other/two.txt", "other/deep/three.txt")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    names, told = found(tmp_path / "in")
    real = [(tmp_path / "in" / name).resolve() for name in names]
    assert len(set(real)) == len(real) and "b/one.txt" in names
    other = any("other" in target for target in links.values())
    assert len(real) == (3 if other else 1) and told == left_out


def test_a_file_counts_once_under_its_own_name(tmp_path):
    make(tmp_path, "in/z.txt", "far.txt")
    for name in ("a.txt", "b.txt"):
        (tmp_path / "in" / name).symlink_to("z.txt")
        (tmp_path / "in" / f"far-{name}").symlink_to("../far.txt")
    assert found(tmp_path / "in") == (["far-a.txt", "z.txt"], {SAME_FILE: 3})


def test_what_is_left_out_is_counted_and_said(tmp_path):
    make(tmp_path, "in/a.TXT", "in/b.log", "in/.hidden", "in/c/.git/config", "in/c/.DS_Store")
    os.mkfifo(tmp_path / "in" / "pipe")
    assert found(tmp_path / "in")[1] == {HIDDEN_FOLDER: 1, HIDDEN_FILE: 2, NO_FILE: 1}
    said = []
    job = PrepareJob([str(tmp_path / "in")], tmp_path / "out", extensions=(".txt",))
    prepare(job, say=said.append)
    assert said[0] == (
        "not taken from folders: 1 x hidden folder, 2 x hidden file, 1 x pipe, socket or device, "
        "1 x other ending"
    )
    assert documents(tmp_path / "out") == ["in/a.TXT"]
    with pytest.raises(ValueError, match="pipe is no regular file"):
        prepare(PrepareJob([str(tmp_path / "in" / "pipe")], tmp_path / "other"))


def test_a_link_to_nothing_is_named(tmp_path):
    make(tmp_path, "in/a.txt")
    (tmp_path / "in" / "gone").symlink_to("nowhere")
    with pytest.raises(ValueError, match="cannot read .*in/gone .No such file"):
        prepare(PrepareJob([str(tmp_path / "in")], tmp_path / "out"))
    (tmp_path / "in" / "gone").unlink()
    (tmp_path / "in" / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match="cannot read .*in/loop .Too many levels"):
        prepare(PrepareJob([str(tmp_path / "in")], tmp_path / "out"))
