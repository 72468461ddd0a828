"""What a file is by its name, JSON arrays, tables, packed files: read as elsewhere, or refused."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys

import pytest

from seq1f1b_jax.data.prepare.portions import cut_files
from seq1f1b_jax.data.prepare.readers import arrays
from seq1f1b_jax.data.prepare.readers.fields import Fields
from seq1f1b_jax.data.prepare.readers.sources import InputFile
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from tests.data.prepared import documents, json_lines
from tests.data.test_prepare import TEXTS, bpe, killed_after

__all__ = ["bpe"]  # a fixture


def objects(**dump):
    records = [{"n": [1, {"a": "]}"}], "text": text, "more": 'q"\\'} for text in TEXTS]
    return json.dumps(records, **dump)


def table(delimiter=","):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([["id", "text"], *enumerate(TEXTS)])
    return file.getvalue()


def zstd():
    return pytest.importorskip(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
        reason="needs the extra zstd",
    )


PACK = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
    "zst": lambda content: zstd().compress(content),
}
CONTENT = {
    "a.jsonl": json_lines(TEXTS), "a.JSONL": json_lines(TEXTS), "a.ndjson": json_lines(TEXTS),
    "a.jsonlines": json_lines(TEXTS), "a.json": json_lines(TEXTS),
    "array.json": objects(), "indented.JSON": " \n" + objects(indent=2, ensure_ascii=False) + "\n",
    "a.csv": table(), "a.CSV": table(), "a.tsv": table("\t"),
}


def prepared(tmp_path, name, content, **settings):
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    return prepare(PrepareJob([str(tmp_path / name)], tmp_path / "out", **settings))


# ---- what a file is


@pytest.mark.parametrize("name", CONTENT)
def test_names_tell_what_a_file_is(tmp_path, small_portions, name):
    meta = prepared(tmp_path, name, CONTENT[name])
    assert documents(tmp_path / "out") == TEXTS
    assert meta.num_bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("name", CONTENT)
def test_a_mark_at_the_beginning_is_no_text(tmp_path, name):
    prepared(tmp_path, name, b"\xef\xbb\xbf" + CONTENT[name].encode())
    assert documents(tmp_path / "out") == TEXTS


NOT_RECORDS = {
    "object": ('{\n "text": "a"\n}', r"a\.json holds neither lines .* its first line is '\{'"),
    "text": ("once upon", "a.json holds neither lines of JSON objects nor .* begins with 'o'"),
    "number": ("5", "begins with '5'"),
    "latin": (b"\xff{}", r"begins with '\\\\xff'"),
    "scalars": ("[1, 2]", "a.json: element 1: a JSON int, not an object with the field 'text'"),
    "no-field": ('[{"a": 1}]', "a.json: element 1: no field 'text', but 'a'"),
    "no-comma": ('[{"text": "a"} {"text": "b"}]', "after element 1: '{' where ']' should be"),
    "open": ('[{"text": "a"}, {"te', "after element 1: the file ends inside the array"),
    "unclosed": ('[{"text": "a"}', "after element 1: nothing where ']' should be"),
    "trailing-comma": ('[{"text": "a"},]', "after element 1: '.' where an object should be"),
    "behind": ('[{"text": "a"}] []', "after element 1: '.' follows the array"),
    "whole-record": ('{"data": []}', "a.json:1: no field 'text', but 'data'"),
}


@pytest.mark.parametrize(("content", "message"), NOT_RECORDS.values(), ids=NOT_RECORDS)
def test_json_that_is_neither_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path, "a.json", content)
    assert "\n" not in str(caught.value)


def test_bad_files_and_elements_are_left_out_and_counted(tmp_path):
    (tmp_path / "in").mkdir()
    for name, content in {
        "a.json": '[{"text": "one"}, {"text": 2}, null, {"text" "x"}, {"text": "two"}]',
        "b.json": '{\n "name": "a package"\n}',
        "c.csv": 'text,n\n"th""r,\n\nee",1\nbad\n\nfour,2\nbad,2,3\n',
    }.items():
        (tmp_path / "in" / name).write_text(content)
    (tmp_path / "in" / "d.csv").write_bytes(b"text\nfive\nna\xefve\nsi\xc3\xa9x\n")
    said = []
    job = PrepareJob([str(tmp_path / "in")], tmp_path / "out", skip_bad=True)
    meta = prepare(job, say=said.append)
    assert documents(tmp_path / "out") == ["one", "two", 'th"r,\n\nee', "four", "five", "siéx"]
    assert meta.num_skipped == 7
    assert "a.json: element 2: field 'text' is 2, not text" in said[-1]


@pytest.mark.parametrize("size", [1, 3, 64])
def test_arrays_are_told_apart_wherever_a_block_ends(monkeypatch, size):
    monkeypatch.setattr(arrays, "BLOCK_BYTES", size)
    texts = ['a"', "\\", '\\"', "[{", "}]", "é\n", "", '"},{"text":"no"}']
    content = io.BytesIO(("\ufeff" + json.dumps([{"text": text} for text in texts])).encode())
    assert list(arrays.array_documents("a.json", content, Fields())) == texts


BAD_TABLES = {
    "no-column": ("id,body\n1,a\n", r"a.csv has no column 'text' \(its first row: 'id', 'body'\)"),
    "semicolons": ("id;text\n1;a\n", r"no column 'text' \(its first row: 'id;text'\)"),
    "twice": ("text,text\n1,a\n", "a.csv has 2 columns 'text'"),
    "short": ("id,text\n1,a\n\n2\n", "a.csv:4: 1 fields, and the first row has 2"),
    "open-quote": ('id,text\n1,"a\n2,b\n', "a.csv:2: not CSV: unexpected end of data"),
    "text-behind-quote": ('id,text\n1,"a"b\n', "a.csv:2: not CSV: ',' expected after"),
    "latin": (b"id,text\n1,caf\xe9\n", "a.csv:2: not UTF-8: byte 0xe9 after character 3 of the"),
    "zero": (b"id,text\n1,a\0\n", "a.csv:2: character 1 of the text is a zero character"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, "a.csv", content)


def test_a_field_may_be_longer_than_the_library_lets_it_be(tmp_path):
    limit = csv.field_size_limit()
    text = "long " * 60_000
    prepared(tmp_path, "a.csv", f"text,n\n{text},1\n")
    assert documents(tmp_path / "out") == [text] and csv.field_size_limit() == limit


# ---- packed


@pytest.mark.parametrize(
    ("name", "packing"),
    [*[("a.jsonl", packing) for packing in PACK], ("array.json", "zst"), ("a.json", "gz"),
     ("a.csv", "bz2"), ("a.txt", "xz"), ("split.txt", "gz"), ("noend", "gz"), ("tab.tsv", "gz")],
)
def test_packed_files_give_the_bytes_of_unpacked_ones(
    tmp_path, small_portions, bpe, name, packing
):
    content = {
        "a.txt": "".join(TEXTS), "noend": "".join(TEXTS), "tab.tsv": table("\t"),
        "split.txt": "==\n" + "==\n".join(TEXTS),
    }
    content = content.get(name) or CONTENT[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    packed = tmp_path / f"{name}.{packing.upper() if name == 'a.csv' else packing}"
    packed.write_bytes(PACK[packing](content.encode()))
    separator = "==" if name == "split.txt" else None
    metas = [
        prepare(PrepareJob([str(path)], tmp_path / to, tokenizer=bpe, separator=separator))
        for path, to in ((tmp_path / name, "plain"), (packed, "packed"))
    ]
    assert metas[0].sha256 == metas[1].sha256
    for file in ("tokens.bin", "documents.npy"):
        assert len({(tmp_path / to / file).read_bytes() for to in ("plain", "packed")}) == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.xz", "array.json", "a.csv.bz2"])
def test_a_killed_run_on_a_stream_continues(tmp_path, small_portions, bpe, name):
    plain = name.rsplit(".", 1)[0] if name.count(".") > 1 else name
    content = CONTENT.get(plain, "".join(TEXTS)).encode()
    pack = PACK.get(name.rsplit(".", 1)[1], bytes)
    (tmp_path / name).write_bytes(pack(content))
    source, said = [str(tmp_path / name)], []
    processes = 2 if name.endswith(".gz") else 1
    whole = prepare(PrepareJob(source, tmp_path / "whole", tokenizer=bpe, processes=processes))
    job = PrepareJob(source, tmp_path / "out", tokenizer=bpe)
    for count in (5, 3):
        with pytest.raises(KeyboardInterrupt):
            prepare(job, advance=killed_after(count))
    done = []
    assert prepare(job, say=said.append, advance=lambda *told: done.append(told)) == whole
    assert said[1] == "8 portions were finished before"
    assert done[-1][0] == done[-1][1] == (tmp_path / name).stat().st_size
    assert sorted(done) == done
    for file in ("tokens.bin", "documents.npy"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_line_numbers_of_packed_files_count_from_their_beginning(tmp_path, small_portions):
    content = ('{"text": "good"}\n' * 50 + "{\n").encode()
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:51: not JSON"):
        prepared(tmp_path, "a.jsonl.gz", gzip.compress(content))


@pytest.mark.parametrize("packing", PACK)
def test_damaged_packed_files(tmp_path, packing):
    packed = PACK[packing](json_lines(TEXTS).encode())
    for content in (packed[: len(packed) // 2], b"no such thing", packed[:-8] + b"\1" * 8):
        with pytest.raises(ValueError, match=f"a.jsonl.{packing} cannot be read as {packing}: "):
            prepared(tmp_path, f"a.jsonl.{packing}", content)


@pytest.mark.parametrize("bad", [b"\xff", b"\0"], ids=["not-utf8", "zero"])
def test_a_bad_packed_text_is_left_out_whole(tmp_path, small_portions, bad):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"Some text\n" * 30 + b"and" + bad))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"Good"))
    sources = [str(tmp_path / "a.gz"), str(tmp_path / "b.gz")]
    with pytest.raises(ValueError, match=r"a\.gz .*offset 303"):
        prepare(PrepareJob(sources, tmp_path / "out"))
    meta = prepare(PrepareJob(sources, tmp_path / "out", skip_bad=True))
    assert documents(tmp_path / "out") == ["Good"] and meta.num_skipped == 1


def test_several_members_are_one_file(tmp_path):
    parts = [gzip.compress(json_lines([text]).encode()) for text in ("one", "two")]
    prepared(tmp_path, "a.jsonl.gz", b"".join(parts))
    assert documents(tmp_path / "out") == ["one", "two"]


def test_zst_with_a_window_of_its_long_mode(tmp_path):
    module = zstd()
    options = {module.CompressionParameter.window_log: 28}
    packer = module.ZstdCompressor(options=options)
    content = packer.compress(json_lines(TEXTS).encode()) + packer.flush()
    prepared(tmp_path, "a.jsonl.zst", content)
    assert documents(tmp_path / "out") == TEXTS


def test_zst_without_its_library_names_the_extra(tmp_path, monkeypatch):
    for name in ("compression", "backports"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'seq1f1b-jax\[zstd\]'"):
        prepared(tmp_path, "a.jsonl.zst", b"")


def test_a_tokenizer_is_trained_on_what_is_packed(tmp_path):
    metas = []
    for name, pack in {"a.jsonl": bytes, "b.jsonl.gz": gzip.compress}.items():
        (tmp_path / name).write_bytes(pack(json_lines(TEXTS).encode()))
        metas.append(prepare(PrepareJob([str(tmp_path / name)], tmp_path / name[0], train_bpe=280)))
    assert metas[0].sha256 == metas[1].sha256


def test_a_packed_file_is_read_a_portion_at_a_time(tmp_path):
    with gzip.open(tmp_path / "a.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(20):
            file.write(b"some words of a text " * 50_000)
    size = (tmp_path / "a.txt.gz").stat().st_size
    file = InputFile(tmp_path / "a.txt.gz", "text", size, 0, "gz")
    portions = cut_files([file], fields=Fields(), separator=None, can_cut_text=True)
    sizes = [(len(portion.held), portion.num_bytes) for portion in portions]
    assert [sum(column) for column in zip(*sizes, strict=True)] == [21_000_000, size]
    assert max(sizes)[0] < (1 << 20) + (1 << 10)
