"""Ids are those of transformers' AutoTokenizer, whatever files the tokens stand in (extra `hf`)."""

import json
import warnings

import pytest

from seq1f1b_jax.data import load_tokenizer
from tests.data.test_tokenizer import BPE, TEXT
from tests.data.tokenizer_files import BESIDE, ONLY_4, ONLY_5

REASON = "needs the extra `hf`: pip install 'seq1f1b-jax[hf]'"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
VERSION = int(transformers.__version__.split(".")[0])
CASES = BESIDE | (ONLY_5 if VERSION >= 5 else ONLY_4)
EVERY = ["<|endoftext|>", *{name for _, added in CASES.values() for name in added}]
TEXTS = [
    TEXT, "", " ", "to be", " \t to  be\n\n", "caf\u0065\u0301 \u212b", "<|endoft", "isn't 12345",
    *(f"be {name} be{name}to{name}{name} \n" for name in EVERY), " ".join(EVERY), "".join(EVERY),
]


@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_transformers(tmp_path, case):
    files, _ = CASES[case]
    BPE._inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    files = {"tokenizer_config.json": {}, **files}
    files["tokenizer_config.json"] |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
    assert ours.vocab_size == len(theirs)
    if theirs.eos_token_id is not None:
        assert ours.eos == theirs.eos_token_id
