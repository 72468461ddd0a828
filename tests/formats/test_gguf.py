"""Reading GGUF: against the package that writes it, and every way a header can lie."""

import struct

import numpy as np
import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.gguf import open_gguf

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install gguf")
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 64)).astype(np.float32)
KINDS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
TEXTS = ["a", "ß", "文", ""]


def quantized(kind):
    return gguf.quants.quantize(WEIGHT, gguf.GGMLQuantizationType[kind])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_int16("an.int", -3)
    writer.add_array("some.texts", TEXTS)
    writer.add_array("some.ints", [3, -1, 2])
    for kind in KINDS:
        writer.add_tensor(
            f"w.{kind}", quantized(kind), raw_dtype=gguf.GGMLQuantizationType[kind]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_are_those_that_were_written(whole):
    metadata = open_gguf(whole).metadata
    expected = {
        "general.architecture": "llama", "llama.block_count": 2, "a.float": 0.5, "a.bool": True,
        "an.int": -3, "some.texts": TEXTS, "some.ints": [3, -1, 2],
    }
    assert {name: metadata[name] for name in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_dequantised(whole, kind):
    file = open_gguf(whole)
    info = file.tensors[f"w.{kind}"]
    assert (info.shape, info.dtype) == (WEIGHT.shape, kind)
    actual = file.read(f"w.{kind}")
    assert actual.dtype == np.float32 and actual.shape == WEIGHT.shape
    expected = gguf.quants.dequantize(quantized(kind), gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(actual, expected)
    # Half a step where 2**bits of them reach over a block, which reaches from -m to m at most.
    bits = int(kind[1]) if kind.startswith("Q") else 8  # BF16 keeps 8 of a mantissa
    np.testing.assert_allclose(actual, WEIGHT, rtol=0, atol=np.abs(WEIGHT).max() / 2**bits)


def test_every_cut_is_noticed(whole, tmp_path):
    content, path = whole.read_bytes(), tmp_path / "cut.gguf"
    last = max(info.stop for info in open_gguf(whole).tensors.values())
    for length in [*range(0, 700, 13), last - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="damaged or cut short"):
            open_gguf(path)


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(name, kind, raw):
    return text(name) + struct.pack("<I", kind) + raw


def tensor(name="w", dims=(2,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def built(values=(), tensors=(), *, magic=b"GGUF", version=3, counts=None, body=bytes(96)):
    counts = counts or (len(tensors), len(values))
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join((*values, *tensors))
    return header + bytes(-len(header) % 32) + body


HUGE = 1 << 60
LIES = {
    "another format": (built(magic=b"PK\x03\x04"), "begins with b'PK.*not b'GGUF'"),
    "version 1": (built(version=1), "GGUF version 1; 2 and 3"),
    "big-endian": (built(version=0x03000000), "GGUF version 50331648; 2 and 3, little-endian"),
    "too many tensors": (built(counts=(HUGE, 0)), f"says {HUGE} tensors"),
    "too many values": (built(counts=(0, HUGE)), f"says {HUGE} metadata values"),
    "long name": (
        built([struct.pack("<Q", HUGE) + bytes(8)]), f"a metadata name takes {HUGE} bytes"),
    "long text": (built([value("t", 8, struct.pack("<Q", HUGE))]), f"'t' takes {HUGE} bytes"),
    "long list": (
        built([value("l", 9, struct.pack("<IQ", 4, HUGE))]), f"says {HUGE} entries of 'l'"),
    "long list of texts": (
        built([value("l", 9, struct.pack("<IQ", 8, HUGE))]), f"says {HUGE} entries of 'l'"),
    "unknown value": (built([value("v", 77, bytes(8))]), "'v' has type 77"),
    "lists in lists": (
        built([value("l", 9, struct.pack("<IQ", 9, 1) * 12)], body=bytes(512)), "in 8 lists"),
    "not UTF-8": (built([value("t", 8, text(b"\xff\xfe"))]), "'t' is not UTF-8"),
    "a value twice": (
        built([value("v", 7, b"\x01"), value("v", 7, b"\x00")]), "'v' appears twice"),
    "alignment 0": (
        built([value("general.alignment", 4, struct.pack("<I", 0))]), "alignment=0 is not"),
    "no dims": (built((), [tensor(dims=())]), "'w' has 0 dims"),
    "an empty dim": (built((), [tensor(dims=(32, 0))]), r"'w' has a dim of 0 in \[32, 0\]"),
    "many dims": (built((), [tensor(dims=(1,) * 9)]), "'w' has 9 dims"),
    "unknown type": (built((), [tensor(kind=999)]), "'w' has type 999"),
    "half a block": (built((), [tensor(dims=(33,), kind=8)]), "rows of 33, .* the 32 of Q8_0"),
    "beyond the end": (built((), [tensor(offset=1 << 40)]), "'w' ends at byte 1099511"),
    "huge": (built((), [tensor(dims=(1 << 60, 1 << 60))]), "'w' ends at byte"),
    "misaligned": (built((), [tensor(offset=4)]), "offset 4, not a multiple of 32"),
    "a tensor twice": (built((), [tensor(), tensor()]), "'w' appears twice"),
    "overlap": (built((), [tensor("w", (12,)), tensor("x", (2,), offset=32)]), "'w' and 'x'"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lying_header_is_one_line(tmp_path, case):
    content, message = LIES[case]
    path = tmp_path / "lie.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_gguf(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_small_true_header_is_read(tmp_path):
    path = tmp_path / "true.gguf"
    path.write_bytes(built([value("v", 7, b"\x01")], [tensor()], body=struct.pack("<2f", 1, 2)))
    file = open_gguf(path)
    assert file.metadata == {"v": True}
    np.testing.assert_array_equal(file.read("w"), [1, 2])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nothing.gguf is not a file"):
        open_gguf(tmp_path / "nothing.gguf")
