"""What an export leaves on the disk: all of it or nothing, and the tokenizer with it."""

import json

import numpy as np
import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.hf import export, read_source
from tests.models.hf_cases import STAGES, parameters


class Lost:
    """A leaf that cannot be fetched."""

    shape = (11, 12)

    def __array__(self, *_, **__):
        raise OSError("the disk is gone")


def test_export_never_overwrites_and_leaves_nothing_behind(tmp_path):
    stage = STAGES["llama"]
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists; nothing is overwritten"):
        export(parameters(stage), stage, tmp_path / "there")
    with pytest.raises(UserError, match="unknown dtype 'int8'"):
        export(parameters(stage), stage, tmp_path / "new", dtype="int8")
    with pytest.raises(UserError, match="tokenizer.gguf' is not a tokenizer.json"):
        export(parameters(stage), stage, tmp_path / "new", tokenizer_file="tokenizer.gguf")
    broken = parameters(stage)._replace(embedding=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"1 parameters .* embedding is \(3, 3\), not \(11, 12\)"):
        export(broken, stage, tmp_path / "new")
    lost = parameters(stage)._replace(head=Lost())
    with pytest.raises(UserError, match="cannot write .*new .the disk is gone.; nothing of it"):
        export(lost, stage, tmp_path / "new")
    (tmp_path / "there").rmdir()
    (tmp_path / "there").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*there/new .(File exists|Not a directory)"):
        export(parameters(stage), stage, tmp_path / "there" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_tokenizer_goes_along(tmp_path):
    stage, there = STAGES["llama"], tmp_path / "tokenizer"
    there.mkdir()
    (there / "tokenizer.json").write_text("{}")
    export(parameters(stage), stage, tmp_path / "one", tokenizer_file=there / "tokenizer.json")
    kind = json.loads((tmp_path / "one" / "tokenizer_config.json").read_text())
    assert kind == {"tokenizer_class": "PreTrainedTokenizerFast"}
    assert read_source(tmp_path / "one").tokenizer_file == tmp_path / "one" / "tokenizer.json"
    (there / "tokenizer_config.json").write_text('{"eos_token": "<e>"}')
    export(parameters(stage), stage, tmp_path / "two", tokenizer_file=there / "tokenizer.json")
    both = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<e>"}
    assert json.loads((tmp_path / "two" / "tokenizer_config.json").read_text()) == both
