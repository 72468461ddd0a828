"""Paths of the command as users write them; folders that go away meanwhile."""

import shutil

import pytest

from seq1f1b_jax.data.__main__ import main
from seq1f1b_jax.data.prepare.bar import BytesBar
from tests.data.prepared import documents
from tests.data.test_tokenizer import BPE

PATHS = {  # source, target
    "relative": ("in/a.txt", "out"),
    "trailing-slash": ("in/", "out/"),
    "dots": ("./in/../in/a.txt", "other/../out"),
    "home": ("~/in/a.txt", "~/out"),
    "spaces": ("a b/a b.txt", "out put"),
    "unicode": ("naïve 東京/ä.txt", "ausgänge 🤖"),
    "line-break": ("a\nb/c\rd.txt", "o\nut"),
    "not-utf8": ("caf\udce9.txt", "o\udce9"),
    "linked-source": ("link/a.txt", "out"),
    "linked-folder": ("link", "out"),
    "linked-target": ("in/a.txt", "empty-link"),
    "link-to-nothing": ("in/a.txt", "new-link"),
    "new-folders": ("in/a.txt", "new/er/out"),
    "brackets": ("in/[red].txt", "[bold]out"),
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("in/a.txt", "a b/a b.txt", "naïve 東京/ä.txt", "a\nb/c\rd.txt", "caf\udce9.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("to be")
    (tmp_path / "link").symlink_to("in")
    for name in ("empty", "other", "bpe"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty-link").symlink_to("empty")
    (tmp_path / "new-link").symlink_to(tmp_path / "other" / "new")
    BPE.save(tmp_path / "bpe")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("source", "to"), PATHS.values(), ids=PATHS)
def test_paths_as_they_are_typed(home, capfd, source, to):
    if "red" in source:
        (home / source).write_text("to be")
    tokenizer = "~/bpe/" if source.startswith("~") else "bpe"
    command = ["prepare", source, "--to", to, "--tokenizer", tokenizer, "--processes", "1"]
    assert main(command) == 0
    folder = home / to.removeprefix("~/")
    assert documents(folder) == ["to be"]
    assert main(["show", to]) == 0 and main(["show", to, "--document", "0"]) == 0
    assert capfd.readouterr().out.endswith("\nto be\n")
    assert main(command) == 0 and "is prepared already" in capfd.readouterr().err
    assert not [path for path in home.rglob("*.partial")]
    assert to not in ("empty-link", "new-link") or folder.is_symlink()


def test_another_working_directory(home, monkeypatch, capfd):
    assert main(["prepare", "in", "--to", "out"]) == 0
    monkeypatch.chdir(home / "other")
    assert main(["show", "../out"]) == 0
    assert main(["prepare", "../in", "--to", "../out"]) == 0
    assert "is prepared already" in capfd.readouterr().err


GONE = {
    "target": ("out.partial", "out.partial"),
    "source": ("in", "cannot read in/"),
    "working-directory": (".", ""),
}


@pytest.mark.parametrize(("gone", "message"), GONE.values(), ids=GONE)
def test_a_folder_that_goes_away_is_told_in_one_line(
    home, monkeypatch, capfd, small_portions, gone, message
):
    for number in range(9):
        (home / "in" / f"{number}.txt").write_text("to be or not to be " * 9)
    removed = []

    def advance(bar, done, total):
        if done and not removed:
            removed.append(shutil.rmtree(home / gone))

    monkeypatch.setattr(BytesBar, "advance", advance)
    assert main(["prepare", "in", "--to", "out", "--processes", "1"]) == 2
    error = capfd.readouterr().err
    assert removed and error.count("\n") == 1 and error.startswith("error: ") and message in error


def test_no_working_directory(home, capfd):
    (home / "other" / "x").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home / "other" / "x")
        (home / "other" / "x").rmdir()
        assert main(["prepare", "a.txt", "--to", "out"]) == 2
        assert main(["show", "out"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
