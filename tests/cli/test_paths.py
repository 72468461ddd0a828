"""Paths as they are typed: what they mean, and how messages show them."""

from pathlib import Path

import pytest

from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import as_typed, one_line, resolve

TYPED = {"/w/runs/x": "runs/x", "/w": ".", "/home/me/data": "~/data", "/w/a\nb": "a\nb"}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("cannot read /w/runs/x/meta.json (gone)", "cannot read runs/x/meta.json (gone)"),
        ("it is kept in /w/runs/x.1", "it is kept in runs/x.1"),
        ("in /w/runs/x. Next", "in runs/x. Next"),
        ("/mnt/w/runs/x is another", "/mnt/w/runs/x is another"),
        ("/w/other and /w2", "./other and /w2"),
        ("/home/me/data, /home/me/data2", "~/data, ~/data2"),
        ("source=/w/a\nb", "source=a\\nb"),
        ("runs/x stays", "runs/x stays"),
    ],
)
def test_messages_show_what_was_typed(message, told):
    assert as_typed(message, TYPED) == told
    assert as_typed(told, TYPED) == told


def test_what_cannot_be_printed_is_escaped():
    assert one_line("a\tb\u2028c\udcffd\x1b[1m é") == "a\\tb\\u2028c\\udcffd\\x1b[1m é"


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve("~/runs/") == Path("/home/me/runs")
    with pytest.raises(UserError, match="~nobody-has-this-name.* put ./ before"):
        resolve("~nobody-has-this-name/runs")


def test_a_zero_character_and_nothing_at_all_are_refused():
    with pytest.raises(UserError, match="a\\\\x00b holds a zero character"):
        resolve("a\0b")
    with pytest.raises(UserError, match="' ' is an empty path"):
        resolve(" ")


def test_a_working_directory_that_is_gone_is_told(monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="runs is relative to the working directory, which is gone"):
        resolve("runs")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(36, "Too long", "/w/runs/x/y"), "cannot use runs/x/y (Too long)"),
        (UserError("/w/runs/x\nis in use"), "runs/x\\nis in use"),
    ],
)
def test_refusals_are_one_line_in_the_users_words(error, told):
    with pytest.raises(UserError) as caught, refusals(TYPED):
        raise error
    assert str(caught.value) == told


DEFECTS = [OSError(5, "I/O error", "/elsewhere"), OSError("no file"), KeyError("x")]


@pytest.mark.parametrize("error", DEFECTS, ids=repr)
def test_defects_pass(error):
    with pytest.raises(type(error)) as caught, refusals(TYPED):
        raise error
    assert caught.value is error
