"""Reading and writing safetensors: against the library, and every way a header can lie."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.safetensors import DTYPES, INDEX, SINGLE, open_checkpoint, read_header
from seq1f1b_jax.formats.write_safetensors import write_checkpoint

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.normal(size=(3, 4)).astype(np.float32),
    "b.c": RNG.normal(size=(2, 2, 5)).astype(np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float32(7).reshape(()),
}


def write(folder, tensors=TENSORS, dtype="F32", **options):
    shapes = {name: value.shape for name, value in tensors.items()}
    return write_checkpoint(folder, shapes, tensors.__getitem__, dtype=dtype, **options)


def raw(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
def test_what_is_written_is_read(tmp_path, dtype):
    write(tmp_path, dtype=dtype)
    files = open_checkpoint(tmp_path)
    assert list(files.tensors) == list(TENSORS)
    for name, value in TENSORS.items():
        assert files.tensors[name].shape == value.shape
        np.testing.assert_array_equal(files.read(name), value.astype(DTYPES[dtype]))


def test_the_library_reads_what_we_write(tmp_path):
    write(tmp_path)
    with safe_open(tmp_path / SINGLE, framework="numpy") as file:
        assert set(file.keys()) == set(TENSORS)
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(file.get_tensor(name), value)


def test_we_read_what_the_library_writes(tmp_path):
    kinds = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {kind: (10 * RNG.normal(size=(3, 5))).astype(kind) for kind in kinds}
    tensors["bfloat16"] = RNG.normal(size=(3, 5)).astype(ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / SINGLE, metadata={"made": "by the library"})
    files = open_checkpoint(tmp_path)
    assert set(files.tensors) == set(tensors)
    for name, value in tensors.items():
        assert files.read(name).dtype == value.dtype
        np.testing.assert_array_equal(files.read(name), value)


def test_a_tensor_is_mapped_and_read_only(tmp_path):
    write(tmp_path)
    tensor = open_checkpoint(tmp_path).read("a")
    assert not tensor.flags.writeable and not tensor.flags.owndata


def test_shards_hold_at_most_so_many_bytes_and_everything_once(tmp_path):
    files = write(tmp_path, max_shard_bytes=60)
    # 48, 80 and 0 + 4 bytes: the second is too large for any file and gets one of its own.
    assert [path.name for path in files] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in TENSORS.values())
    assert index["weight_map"]["a"] == files[0].name
    read = open_checkpoint(tmp_path)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(read.read(name), value)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES = {
    "empty file": (b"", "has 0 bytes, a safetensors file at least 8"),
    "longer header than the file": (
        (1 << 62).to_bytes(8, "little") + b"{}", "4611686018427387904 bytes, the file has 2"),
    "not JSON": ((b"{nope",), "header of .* is not JSON"),
    "not UTF-8": ((b'{"\xff": 1}',), "is not JSON"),
    "nested too deep": ((b"[" * 100_000,), "is not JSON"),
    "a list": ((b"[1]",), "is a JSON list, not an object"),
    "a name twice": ((b'{"w": 1, "w": 2}',), "'w' appears twice"),
    "tensor beyond the end": (({"w": ENTRY}, bytes(4)), "'w' ends at byte .* of a file of"),
    "offsets too short": (
        ({"w": {**ENTRY, "data_offsets": [0, 4]}}, bytes(8)), "takes 8 bytes, .* hold 4"),
    "offsets backwards": (
        ({"w": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)), "takes 8 bytes, .* hold -8"),
    "negative dims": (
        ({"w": {**ENTRY, "shape": [-2, -1]}}, bytes(8)), r"shape \[-2, -1\] .* non-negative"),
    "dims that are no numbers": (
        ({"w": {**ENTRY, "shape": [True, 2.0]}}, bytes(8)), r"shape \[True, 2.0\]"),
    "a huge shape": (
        ({"w": {**ENTRY, "shape": [1 << 40, 1 << 9]}}, bytes(8)), "takes 2251799813685248 bytes"),
    "a huge shape of nothing": (
        ({"w": {**ENTRY, "shape": [1 << 40, 1 << 40, 0], "data_offsets": [0, 0]}},),
        r"1099511627776, 0\], more than .* 2\*\*60"),
    "many dims": (({"w": {**ENTRY, "shape": [1] * 65}}, bytes(8)), "more than 32 dims"),
    "no offsets": (({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)), "offsets None"),
    "an entry that is no object": (({"w": 3}, bytes(8)), "shape None"),
    "unknown dtype": (({"w": {**ENTRY, "dtype": "F4"}}, bytes(8)), "unknown dtype 'F4'; known are"),
    "overlap": (
        ({"w": ENTRY, "x": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
        "'w' and 'x' overlap"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_header_is_one_line(tmp_path, case):
    content, message = LIES[case]
    path = tmp_path / SINGLE
    path.write_bytes(content) if isinstance(content, bytes) else raw(path, *content)
    with pytest.raises(UserError, match=message) as error:
        open_checkpoint(tmp_path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_every_cut_is_noticed(tmp_path):
    [path] = write(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or cut short"):
            read_header(path)


def shard_lies(tmp_path, **changes):
    write(tmp_path, max_shard_bytes=60)
    index = json.loads((tmp_path / INDEX).read_text())
    index["weight_map"] |= changes
    (tmp_path / INDEX).write_text(json.dumps(index))


def test_an_index_names_files_of_its_folder_only(tmp_path):
    shard_lies(tmp_path, a="../model.safetensors")
    with pytest.raises(UserError, match="'../model.safetensors', a file outside"):
        open_checkpoint(tmp_path)


def test_a_single_file_beside_an_index_of_others(tmp_path):
    write(tmp_path, max_shard_bytes=60)
    (tmp_path / SINGLE).write_bytes((tmp_path / "model-00001-of-00003.safetensors").read_bytes())
    message = (
        r"holds model.safetensors, and model.safetensors.index.json, which names 3 other files "
        r"\(model-00001-of-00003.safetensors, model-00002-of-00003.safetensors ...\)"
    )
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path)


def test_an_index_of_the_single_file_alone(tmp_path):
    write(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, SINGLE)}))
    assert set(open_checkpoint(tmp_path).tensors) == set(TENSORS)


def test_missing_shards_are_all_named(tmp_path):
    shard_lies(tmp_path, a="one", scalar="two")
    with pytest.raises(UserError, match="4 files and 2 are not there: one, two"):
        open_checkpoint(tmp_path)


def test_an_index_that_promises_too_much(tmp_path):
    shard_lies(tmp_path, nothing="model-00001-of-00003.safetensors")
    with pytest.raises(UserError, match="places 1 tensors .* nothing"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_lies_in_another_file_too(tmp_path):
    shard_lies(tmp_path, scalar="model-00001-of-00003.safetensors")
    message = "places 'scalar' in model-00001-of-.*, and model-00003-of-.* holds one too"
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path)


def test_a_tensor_that_the_index_does_not_place_is_there(tmp_path):
    write(tmp_path, max_shard_bytes=60)
    index = json.loads((tmp_path / INDEX).read_text())
    del index["weight_map"]["scalar"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert set(open_checkpoint(tmp_path).tensors) == set(TENSORS)


def test_an_index_without_a_map(tmp_path):
    write(tmp_path, max_shard_bytes=60)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        open_checkpoint(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(UserError, match="pytorch_model.bin is a pickle, which is never opened"):
        open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="has neither model.safetensors nor"):
        open_checkpoint(tmp_path / "nowhere")
