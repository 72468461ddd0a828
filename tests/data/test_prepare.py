"""`python -m seq1f1b_jax.data`: every kind of input, what is left out, runs that were killed."""

import json
import sys

import pytest

from seq1f1b_jax.data import load_corpus, load_tokenizer
from seq1f1b_jax.data.folder import read_meta
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.data.tokenizer.train import train_on_texts
from tests.data.prepared import documents, json_lines
from tests.data.test_tokenizer import BPE


@pytest.fixture
def bpe(tmp_path):
    (tmp_path / "bpe").mkdir()
    BPE.save(tmp_path / "bpe")
    return str(tmp_path / "bpe")


TEXTS = [f"Document {n}:\nnaïve {'to be or not ' * (n % 7)}\n東京 {n}\n" for n in range(40)]


# ---- what is read


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_jsonl(tmp_path, bpe, small_portions, tokenizer):
    (tmp_path / "a.jsonl").write_text(json_lines([*TEXTS[:20], "", *TEXTS[20:]], "body"))
    given = PrepareJob(
        [str(tmp_path / "a.jsonl")], tmp_path / "out", key="body",
        tokenizer=bpe if tokenizer == "bpe" else "bytes",
    )
    meta = prepare(given)
    assert documents(tmp_path / "out") == TEXTS
    assert (meta.num_documents, meta.num_empty, meta.num_skipped) == (40, 1, 0)
    assert meta.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "documents.npy", "meta.json",
        *(["tokenizer.json", "tokenizer_config.json"] if tokenizer == "bpe" else []), "tokens.bin",
    ]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_long_text_is_one_document_however_it_was_cut(tmp_path, bpe, small_portions, tokenizer):
    text = "".join(TEXTS)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    kind = bpe if tokenizer == "bpe" else "bytes"
    prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer=kind))
    assert documents(tmp_path / "out") == [text]
    expected = load_tokenizer(kind).encode(text, specials=False)
    assert load_corpus(str(tmp_path / "out")).tokens[:-1].tolist() == expected


def test_blank_lines_are_the_same_tokens_where_a_text_is_cut(tmp_path, small_portions):
    text = "some words and\n\nothers, " * 40
    tokenizer = train_on_texts(["\n\n\nx" * 99], 258)  # its one merge is two newlines
    tokenizer.save(tmp_path)
    (tmp_path / "a.txt").write_text(text)
    prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer=str(tmp_path)))
    tokens = load_corpus(str(tmp_path / "out")).tokens[:-1].tolist()
    assert tokens == tokenizer.encode(text)


def test_lines_that_separate_documents(tmp_path, small_portions):
    (tmp_path / "a.txt").write_text("==\n" + "==\n".join(TEXTS) + "==\n", encoding="utf-8")
    meta = prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "out", separator="=="))
    assert documents(tmp_path / "out") == TEXTS and meta.num_empty == 1


def test_folders_take_files_by_extension(tmp_path):
    (tmp_path / "in" / "b").mkdir(parents=True)
    files = {"a.md": "one", "b/x.jsonl": json_lines(["two", "three"]), "c.txt": "", "d.log": "no"}
    for name, content in files.items():
        (tmp_path / "in" / name).write_text(content)
    meta = prepare(
        PrepareJob([str(tmp_path / "in")], tmp_path / "out", extensions=(".md", ".jsonl", ".txt"))
    )
    assert documents(tmp_path / "out") == ["one", "two", "three"] and meta.num_empty == 1


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet

    table = arrow.table({"body": [*TEXTS, None], "n": list(range(41))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    meta = prepare(PrepareJob([str(tmp_path / "a.parquet")], tmp_path / "out", key="body"))
    assert documents(tmp_path / "out") == TEXTS and meta.num_empty == 1
    for key, message in {"text": "no column 'text', but body, n", "n": "'n' is int64, not"}.items():
        with pytest.raises(ValueError, match=message):
            prepare(PrepareJob([str(tmp_path / "a.parquet")], tmp_path / "other", key=key))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])
    with pytest.raises(ValueError, match="b.parquet cannot be read as parquet"):
        prepare(PrepareJob([str(tmp_path / "b.parquet")], tmp_path / "other"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"pip install 'seq1f1b-jax\[parquet\]'"):
        prepare(PrepareJob([str(tmp_path / "a.parquet")], tmp_path / "out"))


def test_a_trained_tokenizer_comes_with_the_tokens(tmp_path):
    (tmp_path / "a.jsonl").write_text(json_lines(["to be or not to be <|endoftext|>"] * 9))
    meta = prepare(PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "out", train_bpe=270))
    assert meta.vocab_size == 270 and meta.token_dtype == "uint16"
    assert documents(tmp_path / "out") == ["to be or not to be <|endoftext|>"] * 9


def test_large_vocabularies_are_four_bytes(tmp_path):
    settings = json.loads(BPE._inner.to_str())
    settings["added_tokens"].append({**settings["added_tokens"][0], "id": 300, "content": "<x>"})
    settings["model"]["vocab"]["zzzz"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    (tmp_path / "a.txt").write_text("to be")
    meta = prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "out", tokenizer=str(tmp_path)))
    assert (meta.token_dtype, meta.vocab_size, meta.eos) == ("uint32", 70_001, None)
    assert documents(tmp_path / "out") == ["to be"]


def test_two_processes_write_the_same(tmp_path, bpe):
    (tmp_path / "in").mkdir()
    for n, text in enumerate(TEXTS):
        (tmp_path / "in" / f"{n:02}.txt").write_text(text, encoding="utf-8")
    metas = [
        prepare(PrepareJob([f"{tmp_path}/in"], tmp_path / f"out{n}", tokenizer=bpe, processes=n))
        for n in (1, 2)
    ]
    assert metas[0] == metas[1] and documents(tmp_path / "out2") == TEXTS


# ---- killed, repeated, changed


def killed_after(count):
    """Ctrl-C after so many portions."""
    calls = iter(range(count))

    def advance(done, total):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return advance


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_a_killed_run_continues_and_ends_the_same(tmp_path, small_portions, bpe, kind):
    content = json_lines(TEXTS) if kind == "jsonl" else "".join(TEXTS)
    (tmp_path / f"a.{kind}").write_text(content, encoding="utf-8")
    source, said = [str(tmp_path / f"a.{kind}")], []
    whole = prepare(PrepareJob(source, tmp_path / "whole", tokenizer=bpe))
    job = PrepareJob(source, tmp_path / "out", tokenizer=bpe)
    for count in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            prepare(job, advance=killed_after(count))
        assert not (tmp_path / "out").exists()
    # what a kill in the middle of writing leaves behind
    for name in ("tokens.bin", "lengths.bin", "journal.jsonl"):
        with (tmp_path / "out.partial" / name).open("ab") as file:
            file.write(b'{"num')
    assert prepare(job, say=said.append) == whole
    continued = f"continuing {tmp_path / 'out.partial'}"
    assert said[:2] == [continued, "8 portions were finished before"]
    for name in ("tokens.bin", "documents.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out.partial").exists()


def test_a_run_killed_on_other_input_starts_over_and_says_so(tmp_path, small_portions):
    path, said = tmp_path / "a.jsonl", []
    path.write_text(json_lines(TEXTS))
    with pytest.raises(KeyboardInterrupt):
        prepare(PrepareJob([str(path)], tmp_path / "out"), advance=killed_after(3))
    path.write_text(json_lines(TEXTS[1:]))
    prepare(PrepareJob([str(path)], tmp_path / "out"), say=said.append)
    assert "inputs or settings changed: starting over" in said[0]
    assert documents(tmp_path / "out") == TEXTS[1:]


def test_two_runs_never_write_to_one_folder(tmp_path, small_portions):
    (tmp_path / "a.jsonl").write_text(json_lines(TEXTS))
    job = PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "out")

    def second(done, total):
        with pytest.raises(ValueError, match="out.partial is being written by another process"):
            prepare(job)

    prepare(job, advance=second)
    assert documents(tmp_path / "out") == TEXTS


def test_a_journal_that_tells_of_more_than_there_is_is_not_believed(tmp_path, small_portions):
    (tmp_path / "a.jsonl").write_text(json_lines(TEXTS))
    job = PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        prepare(job, advance=killed_after(9))
    tokens = tmp_path / "out.partial" / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:200])
    prepare(job)
    assert documents(tmp_path / "out") == TEXTS


def test_what_is_made_of_a_folder_may_lie_in_it(tmp_path, small_portions):
    (tmp_path / "a.txt").write_text("text")
    job = PrepareJob([str(tmp_path)], tmp_path / "out")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "plan.json").write_text("{}")
    meta = prepare(job)
    assert prepare(job) == meta and documents(tmp_path / "out") == ["text"]


def test_what_is_there_is_not_written_again_nor_over(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    said, job = [], PrepareJob([str(tmp_path / "a.txt")], tmp_path / "out")
    meta = prepare(job)
    assert prepare(job, say=said.append) == meta == read_meta(tmp_path / "out" / "meta.json")
    assert "is prepared already" in said[0]
    (tmp_path / "a.txt").write_text("other")
    with pytest.raises(ValueError, match="holds other data, or other tokens; nothing is overwrit"):
        prepare(job)
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "thesis.tex").write_text("")
    for to, message in {"mine": "did not write; move it away", ".": "did not write; noth"}.items():
        with pytest.raises(ValueError, match=message):
            prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / to))
    assert (tmp_path / "mine.partial" / "thesis.tex").exists()
