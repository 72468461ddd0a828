"""Token folders: what prepare wrote is what is read, and no header is believed."""

import json
from pathlib import Path

import numpy as np
import pytest

from seq1f1b_jax.cli import parse
from seq1f1b_jax.data import load_corpus, make_data
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.models import preset_fields
from tests.data.test_tokenizer import BPE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Three documents of bytes: `one`, `zwei`, `trois`, each with its zero byte."""
    lines = [json.dumps({"text": text}) for text in ("one", "zwei", "trois")]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    prepare(PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "tokens"))
    return tmp_path / "tokens"


def change(folder, **fields):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | fields))


def test_a_folder_is_read_as_it_was_written(folder):
    corpus = load_corpus(str(folder))
    assert corpus.tokens.tobytes().decode("utf-16-le") == "one\0zwei\0trois\0"
    assert corpus.documents.tolist() == [0, 4, 9, 15] and corpus.kind == "prepared"
    assert isinstance(corpus.tokens, np.memmap) and isinstance(corpus.documents, np.memmap)
    assert corpus.vocab_size == 256 and load_corpus(str(folder), vocab_size=300).vocab_size == 300
    assert corpus.load_tokenizer().decode(corpus.tokens[4:8].tolist()) == "zwei"
    data = make_data(corpus, seq_len=6, eval_fraction=0.5, seed=0, packing="documents")
    assert data.pieces.num_sequences == 3


def test_a_vocabulary_smaller_than_the_tokenizer(folder):
    message = (
        "has 256 tokens and model.vocab_size=200 has no rows for all of them; give "
        "--model.vocab_size 256, leave that setting out"
    )
    with pytest.raises(ValueError, match=message):
        load_corpus(str(folder), vocab_size=200)


def test_the_tokens_of_a_folder_are_a_bin(folder):
    path = folder / "tokens.bin"
    corpus = load_corpus(str(path), vocab_size=50304)
    assert corpus.tokens.tolist() == load_corpus(str(folder)).tokens.tolist()
    assert corpus.kind == "tokens" and corpus.vocab_size == 50304
    with pytest.raises(ValueError, match="holds uint16 by the meta.json beside it, and data.token"):
        load_corpus(str(path), token_dtype="uint32")


def test_a_tokenizer_that_is_not_that_of_the_tokens(folder):
    BPE.save(folder)
    for size in (250, 350):
        change(folder, tokenizer="tokenizer.json", vocab_size=size)
        with pytest.raises(ValueError, match=f"with 300 tokens, and meta.json says {size}"):
            load_corpus(str(folder), vocab_size=400).load_tokenizer()


def damage_tokens(folder):
    content = bytearray((folder / "tokens.bin").read_bytes())
    content[2] ^= 1
    (folder / "tokens.bin").write_bytes(content)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def offsets(values, dtype="<i8", **options):
    return lambda folder: np.save(folder / "documents.npy", np.array(values, dtype), **options)


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


HEADER = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (4,), }"
LIES = {
    "changed-token": (damage_tokens, "tokens.bin has sha256 .* meta.json says"),
    "cut-tokens": (cut("tokens.bin", 29), "tokens.bin has 29 bytes .* 15 tokens of uint16, 30"),
    "no-tokens": (lambda f: (f / "tokens.bin").unlink(), "cannot read .*tokens.bin .No such file"),
    "more-tokens": (lambda f: change(f, num_tokens=2**60), "has 30 bytes .* 115292150460684697"),
    "cut-offsets": (cut("documents.npy", 150), "has 150 bytes and its header says 160"),
    "cut-header": (cut("documents.npy", 40), "documents.npy is not an array file"),
    "not-an-array": (write("documents.npy", b"PK\x03\x04"), "documents.npy is not an array file"),
    "code-in-header": (
        write("documents.npy", HEADER.replace(b"(4,)", b"f()").ljust(128)), "not an array file"
    ),
    "open-header": (
        write("documents.npy", HEADER.replace(b"(4,)", b"((4,)").ljust(128)), "not an array file"
    ),
    "huge-shape": (
        write("documents.npy", HEADER.replace(b"(4,)", b"(9**99,)").ljust(128)), "not an array file"
    ),
    "long-shape": (
        write("documents.npy", HEADER.replace(b"(4,)", b"(99999999999,)").ljust(128)),
        r"int64\[99999999999\] and meta.json says int64\[4\]",
    ),
    "objects": (
        offsets([0, 4, 9, 15], object, allow_pickle=True), r"holds object\[4\] and meta.json says"
    ),
    "floats": (offsets([0, 4, 9, 15], "<f8"), r"holds float64\[4\] and meta.json says int64"),
    "too-few": (offsets([0, 15]), r"int64\[2\] and meta.json says int64\[4\]"),
    "falling": (offsets([0, 9, 4, 15]), "document 1 begins at 9 and ends at 4"),
    "empty": (offsets([0, 9, 9, 15]), "document 1 begins at 9 and ends at 9"),
    "too-short": (offsets([0, 4, 9, 14]), "runs from 0 to 14 and tokens.bin has 15"),
    "late": (offsets([1, 4, 9, 15]), "runs from 1 to 15 and tokens.bin has 15"),
    "version": (lambda f: change(f, version=3), "has version 3 and this program reads 1 and 2"),
    "no-mask": (lambda f: change(f, version=2), 'says "text" for loss_on'),
    "a-mask": (lambda f: change(f, loss_on="messages"), 'says "messages" for loss_on'),
    "list": (write("meta.json", b"[]"), "has version None and this program reads 1"),
    "not-json": (write("meta.json", b"{"), "meta.json is not JSON"),
    "dtype": (lambda f: change(f, token_dtype="int8"), 'says "int8" for token_dtype'),
    "negative": (lambda f: change(f, num_documents=-1), "says -1 for num_documents"),
    "text": (lambda f: change(f, num_tokens="15"), 'says "15" for num_tokens'),
    "missing": (lambda f: change(f, sha256=None), "says null for sha256"),
    "eos": (lambda f: change(f, eos=256), "says 256 for eos"),
    "no-vocabulary": (lambda f: change(f, vocab_size=None), "says null for vocab_size"),
    "vocabulary": (lambda f: change(f, vocab_size=100), "token id 111 at position 0 is not below"),
}


@pytest.mark.parametrize(("lie", "message"), LIES.values(), ids=LIES.keys())
def test_lies_are_found(folder, lie, message):
    lie(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_corpus(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["gpu8_2.7b_32k", "gpu64_30b_64k"])
def test_the_gpu_recipes_read_what_prepare_writes(tmp_path, recipe):
    (tmp_path / "a.txt").write_text("to be or not to be " * 99)
    prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "out", train_bpe=300))
    for source in (tmp_path / "out", tmp_path / "out" / "tokens.bin"):
        words = ["--config", recipe, "--data.source", str(source)]
        config = parse(words, recipes=ROOT / "mesh_configs").config
        rows = preset_fields(config.model.family, config.model.preset)["vocab_size"]
        corpus = load_corpus(
            config.data.source, token_dtype=config.data.token_dtype, vocab_size=rows
        )
        assert corpus.vocab_size == 50304 and corpus.tokens.dtype == np.uint16
