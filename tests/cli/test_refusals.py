"""What is told in one line, and what is left to be a defect."""

import os

import jax
import numpy as np
import pytest

from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.config import UserError


def too_large_for_numpy():
    np.empty(2**50)


def too_large_for_the_compiler():
    jax.block_until_ready(jax.numpy.ones((2**20, 2**28)))


@pytest.mark.parametrize("allocate", [too_large_for_numpy, too_large_for_the_compiler])
def test_memory_that_does_not_suffice_is_one_line(allocate):
    with pytest.raises(UserError, match="^the memory does not suffice .*; lower .*$") as error:
        with refusals():
            allocate()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("raised", ["RuntimeError('a defect')", "ValueError('of a library')"])
def test_defects_pass_as_they_are(raised):
    with pytest.raises((RuntimeError, ValueError)) as error, refusals():
        exec(f"raise {raised}", {"__name__": "library"})
    assert not isinstance(error.value, UserError)


def test_a_file_that_was_typed_is_named_as_it_was_typed(tmp_path):
    with pytest.raises(UserError, match=r"^cannot use here/gone \(No such file or directory\)$"):
        with refusals({str(tmp_path): "here"}):
            os.stat(tmp_path / "gone")
    with pytest.raises(FileNotFoundError), refusals():
        os.stat(tmp_path / "gone")
