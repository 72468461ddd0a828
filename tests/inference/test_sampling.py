"""Prompts of a model that was trained on token ids."""

import pytest

from seq1f1b_jax.inference.sampling import encode


def test_ids_between_spaces():
    assert encode(" 7 0  12", None).tolist() == [[7, 0, 12]]


@pytest.mark.parametrize("prompt", ["def", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "9" * 30])
def test_what_is_no_id(prompt):
    with pytest.raises(ValueError, match="was trained on token ids, not on text; give token ids"):
        encode(prompt, None)
