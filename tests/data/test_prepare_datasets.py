"""Data sets of the `datasets` library: saved folders, Arrow files, streams of the Hub."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from seq1f1b_jax.data import __main__ as command
from seq1f1b_jax.data.folder import open_folder
from seq1f1b_jax.data.prepare import portions
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare

TEXTS = [f"text {number}, " * (number % 7) for number in range(300)]


def table(texts):
    """As a data set has it: the text among columns of other kinds, some encoded."""
    labels = pa.array(["a", "b"] * (len(texts) // 2)).dictionary_encode()
    nested = pa.array([{"url": "x", "tags": ["y"]}] * len(texts))
    return pa.table({"label": labels, "text": texts, "meta": nested})


def write_stream(path, texts, *, rows=40, columns=("label", "text", "meta"), make=ipc.new_stream):
    content = table(texts).select(columns)
    with make(str(path), content.schema) as writer:
        writer.write_table(content, max_chunksize=rows)


def save(folder, **changes):
    """What `Dataset.save_to_disk(folder, num_shards=2)` leaves; files out of order by name."""
    folder.mkdir(parents=True)
    names = ["data-2.arrow", "data-1.arrow"]
    for name, texts in zip(names, (TEXTS[:100], TEXTS[100:]), strict=True):
        write_stream(folder / name, texts)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None} | changes
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def tokens(source, to, **options):
    meta = prepare(PrepareJob([str(source)], to, **options))
    return meta, open_folder(to)


def expected():
    return np.frombuffer("".join(text + "\0" for text in TEXTS if text).encode(), np.uint8)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_saved_folder_is_read_in_its_order_in_portions(processes, tmp_path, monkeypatch):
    monkeypatch.setattr(portions, "PORTION_BYTES", 4000)
    saved = save(tmp_path / "saved")
    meta, folder = tokens(saved, tmp_path / "tokens", processes=processes)
    np.testing.assert_array_equal(folder.tokens, expected())
    assert meta.num_documents + meta.num_empty == len(TEXTS)
    again = prepare(PrepareJob([str(saved)], tmp_path / "tokens"))
    assert again == meta


@pytest.mark.parametrize("make", [ipc.new_stream, ipc.new_file])
@pytest.mark.parametrize("columns", [("text",), ("label", "text", "meta")])
def test_arrow_files_of_both_forms_with_and_without_dictionaries(
    make, columns, tmp_path, monkeypatch
):
    monkeypatch.setattr(portions, "PORTION_BYTES", 2000)
    write_stream(tmp_path / "one.arrow", TEXTS, columns=columns, make=make)
    parquet.write_table(table(TEXTS), tmp_path / "one.parquet", row_group_size=50)
    _, folder = tokens(tmp_path / "one.arrow", tmp_path / "arrow")
    np.testing.assert_array_equal(folder.tokens, expected())
    _, other = tokens(tmp_path / "one.parquet", tmp_path / "parquet")
    np.testing.assert_array_equal(folder.documents, other.documents)


def refused(capsys, *arguments):
    assert command.main(["prepare", *map(str, arguments)]) == 2
    *_, error = capsys.readouterr().err.splitlines()  # before it: what was found in the folder
    assert error.startswith("error: ")
    return error


def test_splits_damage_and_other_columns_are_refused_in_a_line(tmp_path, capsys):
    to = ("--to", tmp_path / "tokens", "--processes", 1)
    both = tmp_path / "both"
    for split in ("train", "test"):
        save(both / split)
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert f"holds the splits train, test; give one: {both / 'train'}" in refused(capsys, both, *to)
    (both / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert tokens(both, tmp_path / "train")[0].num_empty > 0
    saved = save(tmp_path / "saved")
    told = refused(capsys, saved, *to, "--key", "body")
    assert "has no column 'body', but label, text, meta" in told
    assert "column 'label' is dictionary" in refused(capsys, saved, *to, "--key", "label")
    (saved / "data-1.arrow").write_bytes((saved / "data-1.arrow").read_bytes()[:2500])
    assert "cannot be read as Arrow: Expected to be able" in refused(capsys, saved, *to)
    (saved / "data-1.arrow").unlink()
    assert "data-1.arrow" in refused(capsys, saved, *to)
    (saved / "state.json").write_text('{"_data_files": 3}')
    assert "is not what save_to_disk writes" in refused(capsys, saved, *to)
    old = save(tmp_path / "old", _indices_data_files=[{"filename": "i"}])
    assert "an old version of datasets" in refused(capsys, old, *to)


@pytest.fixture
def hub(monkeypatch):
    """The libraries, with one data set; what they were asked for."""
    asked = []

    class Stream(list):
        column_names = ("text", "url")

        def select_columns(self, names):
            return Stream({name: record[name] for name in names} for record in self)

        def take(self, count):
            return Stream(self[:count])

    def load_dataset(name, subset, **options):
        asked.append((name, subset, options))
        if name != "owner/books":
            raise ConnectionError(f"Couldn't reach {name!r}\non the Hub")
        return Stream({"text": text or None, "url": ""} for text in TEXTS)

    library = ModuleType("datasets")
    library.load_dataset = load_dataset
    client = ModuleType("huggingface_hub")
    client.HfApi = lambda: SimpleNamespace(
        dataset_info=lambda name, revision, timeout: SimpleNamespace(sha=f"{revision or 'main'}0")
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return asked


def test_a_data_set_of_the_hub_is_streamed_at_its_commit(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(portions, "PORTION_BYTES", 3000)
    to = tmp_path / "tokens"
    line = ["prepare", "hf://owner/books", "--to", str(to), "--subset", "en", "--processes", "1"]
    assert command.main(line) == 0, capsys.readouterr().err
    np.testing.assert_array_equal(open_folder(to).tokens, expected())
    options = {"split": "train", "streaming": True, "revision": "main0"}
    assert hub == [("owner/books", "en", options)]
    assert command.main(line) == 0 and "is prepared already" in capsys.readouterr().err
    assert command.main([*line, "--revision", "v2"]) == 2  # other data: nothing is overwritten
    assert "holds other data" in capsys.readouterr().err
    few = tmp_path / "few"
    line[3] = str(few)
    assert command.main([*line, "--limit", "10"]) == 0
    assert open_folder(few).meta.num_documents == sum(map(bool, TEXTS[:10]))


def test_the_hub_out_of_reach_is_one_line_with_the_cure(hub, tmp_path, monkeypatch, capsys):
    to = ("--to", tmp_path / "tokens", "--processes", 1)
    told = refused(capsys, "hf://owner/none", *to)
    assert "(Couldn't reach 'owner/none' on the Hub); correct the name, --subset" in told
    assert "has no field 'body', but 'text', 'url'; name one" in refused(
        capsys, "hf://owner/books", *to, "--key", "body"
    )
    assert "a data set is hf://OWNER/NAME" in refused(capsys, "hf://a/b/c", *to)
    (tmp_path / "text.txt").write_text("text")
    told = refused(capsys, tmp_path / "text.txt", *to, "--limit", 3)
    assert "--limit 3 is for data sets of the Hub" in told
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = refused(capsys, "hf://owner/books", *to)
    assert "needs the datasets library; install the extra" in told and "[datasets]" in told
