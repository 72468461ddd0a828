"""What `prepare` refuses, names, counts and leaves out; and the command around it."""

import re

import pytest

from seq1f1b_jax.data.__main__ import main
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from tests.data.prepared import documents, json_lines

# ---- bad documents

GOOD = '{"text": "good"}\n'
BAD_LINES = {
    "cut-off": ('{"text": "a', "a.jsonl:3: not JSON: Unterminated string starting at at column 10"),
    "no-comma": ('{"a": 1 "text": 2}', "a.jsonl:3: not JSON: Expecting ',' delimiter at column 9"),
    "list": ('["text"]', "a.jsonl:3: a JSON list, not an object"),
    "other-key": ('{"body": "a"}', "a.jsonl:3: no field 'text', but 'body'"),
    "number": ('{"text": 5}', "a.jsonl:3: field 'text' is 5, not text"),
    "null": ('{"text": null}', "a.jsonl:3: field 'text' is null, not text"),
    "surrogate": (r'{"text": "ab\ud800"}', "a.jsonl:3: character 2 of the text is half a surr"),
    "zero": (r'{"text": "a\u0000"}', "a.jsonl:3: character 1 of the text is a zero character"),
    "not-utf8": (b'{"text": "\xff"}', "a.jsonl:3: not UTF-8: byte 0xff at column 11"),
    "deep": ("[" * 100_000, "a.jsonl:3: not JSON that can be read"),
    "digits": ('{"text": ' + "9" * 5000 + "}", "a.jsonl:3: not JSON that can be read"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_lines_are_named_or_counted(tmp_path, line, message, small_portions):
    line = line if isinstance(line, bytes) else line.encode()
    content = GOOD.encode() + b"\n" + line + b"\n" + (GOOD * 9).encode() + b"{\n"
    (tmp_path / "a.jsonl").write_bytes(content)
    source = [str(tmp_path / "a.jsonl")]
    with pytest.raises(ValueError, match=message):
        prepare(PrepareJob(source, tmp_path / "out"))
    said = []
    meta = prepare(PrepareJob(source, tmp_path / "out", skip_bad=True), say=said.append)
    assert (meta.num_skipped, meta.num_documents) == (2, 10)
    assert message[:11] in said[-1] and said[-1].startswith("left out 2, the first: ")


def test_the_line_number_counts_earlier_portions(tmp_path, small_portions):
    (tmp_path / "a.jsonl").write_text(GOOD * 50 + "{\n" + GOOD * 50)
    with pytest.raises(ValueError, match=r"a\.jsonl:51: not JSON"):
        prepare(PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "out"))


@pytest.mark.parametrize("bad", [b"\xff", b"\0"], ids=["not-utf8", "zero"])
def test_bad_text_is_named_by_offset_and_left_out_whole(tmp_path, small_portions, bad):
    good, text = "Good text\n" * 30, b"Some text\n" * 30
    (tmp_path / "good.txt").write_text(good)
    (tmp_path / "bad.txt").write_bytes(text + b"and" + bad + text)
    sources = [str(tmp_path / "bad.txt"), str(tmp_path / "good.txt")]
    with pytest.raises(ValueError, match=r"bad\.txt .*offset 303"):
        prepare(PrepareJob(sources, tmp_path / "out"))
    meta = prepare(PrepareJob(sources, tmp_path / "out", skip_bad=True))
    assert documents(tmp_path / "out") == [good] and meta.num_skipped == 1


def test_nothing_left(tmp_path):
    (tmp_path / "a.jsonl").write_text(json_lines(["", ""]) + "{\n")
    with pytest.raises(ValueError, match="0 tokens: 2 documents are empty and 1 cannot be read"):
        prepare(PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "out", skip_bad=True))


# ---- the command


def test_the_command_prepares_and_shows(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json_lines(["one", "two\x1b[2J", "four" * 9]))
    to = str(tmp_path / "out")
    assert main(["prepare", str(tmp_path / "a.jsonl"), "--to", to, "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert "documents     3" in shown and "49 as uint16" in shown and "tokens/s" in shown
    assert main(["show", to, "--seq-len", "20"]) == 0
    shown = capsys.readouterr().out
    assert "3 sequences of 20, 81.67% full; documents that are longer, and cut: 1" in shown
    assert "32-63  1  ####" in shown and "8-15   1  ####" in shown
    assert main(["show", to, "--document", "1"]) == 0
    assert capsys.readouterr().out == "two\ufffd[2J\n"


REFUSED = {
    "missing": (["prepare", "nowhere.txt", "--to", "x"], "cannot read nowhere.txt .No such file"),
    "twice": (["prepare", "a.txt", "./a.txt", "--to", "x"], "2 files were given and 1 are differ"),
    "archive": (["prepare", "a.tar.gz", "--to", "x"], "a.tar.gz is an archive; unpack it and give"),
    "packing": (["prepare", "a.txt.lz4", "--to", "x"], "a.txt.lz4 is compressed, and .gz, .bz2,"),
    "extensions": (["prepare", "d", "--to", "x", "--extensions", ".md"], "none of the 1 files in"),
    "no-dot": (["prepare", "d", "--to", "x", "--extensions", "md"], "'md' is not a list such as"),
    "both": (
        ["prepare", "a.txt", "--to", "x", "--train-bpe", "300", "--tokenizer", "bytes"],
        "--train-bpe makes its own tokenizer; leave --tokenizer out",
    ),
    "small-bpe": (["prepare", "a.txt", "--to", "x", "--train-bpe", "99"], "a vocabulary of 99 tok"),
    "lines": (["prepare", "a.txt", "--to", "x", "--split-documents-on", "a\nb"], "is one line"),
    "processes": (["prepare", "a.txt", "--to", "x", "--processes", "0"], "'0' is not a whole num"),
    "to": (["prepare", "a.txt", "--to", "a.txt/x"], "cannot write a.txt/x.partial .Not a directo"),
    "name": (["prepare", "a.txt", "--to", "n" * 300], "cannot use n{300}.* .File name too long"),
    "here": (["prepare", "a.txt", "--to", "."], "--to . names no new folder; give one"),
    "key": (
        ["prepare", "a.txt", "d", "--to", "x", "--key", "body"],
        "--key body names a field of .* and all 2 files are text by name; leave it out",
    ),
    "separator": (
        ["prepare", "a.jsonl", "--to", "x", "--split-documents-on", "=="],
        "--split-documents-on == is for text, and a.jsonl is jsonl; leave it out",
    ),
    "extensions-of-none": (
        ["prepare", "a.txt", "stdlib", "--to", "x", "--extensions", ".txt,.md"],
        "--extensions .txt,.md chooses among files of folders, and no source is one",
    ),
    "keep-bytes": (
        ["prepare", "a.txt", "--to", "x", "--special-tokens", "keep"], "bytes has no special tok"
    ),
    "specials": (["prepare", "a", "--to", "x", "--special-tokens", "drop"], "invalid choice: 'dr"),
    "packed-parquet": (["prepare", "a.parquet.gz", "--to", "x"], "parquet is compressed inside"),
    "option": (["prepare", "a.txt", "--to", "x", "--keys", "a"], "unrecognized arguments: --keys"),
    "home": (["show", "~nobody-here/x"], "~nobody-here/x: Could not determine home directory"),
    "line-break": (["prepare", "no\nwhere", "--to", "x"], r"cannot read no\\nwhere"),
    "escape": (["show", "no\x1b[2Jwhere"], r"cannot read no\\x1b\[2Jwhere/meta.json"),
    "show": (["show", "d"], "cannot read d/meta.json .No such file"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("a.txt", "a.jsonl", "a.tar.gz", "a.txt.lz4", "d/b.txt"):
        (tmp_path / name).write_text("text")
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and error.startswith("error: ")
    assert re.search(message, error)


def test_one_document_that_is_not_there(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    main(["prepare", str(tmp_path / "a.txt"), "--to", str(tmp_path / "out")])
    capsys.readouterr()
    assert main(["show", str(tmp_path / "out"), "--document", "1"]) == 2
    assert "--document 1: " in capsys.readouterr().err
    assert main(["show", str(tmp_path / "out"), "--document", "0", "--seq-len", "8"]) == 2
    assert "--document shows one text, and --seq-len" in capsys.readouterr().err
