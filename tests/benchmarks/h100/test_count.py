"""All figures of a step that can be counted by hand, and the errors."""

import json

import jax
import pytest

from benchmarks import h100_program
from benchmarks.h100 import settings
from benchmarks.h100.count import Sizes, count
from benchmarks.h100.hlo import read_program
from benchmarks.h100.settings import Compiled
from benchmarks.h100.sources import largest
from benchmarks.h100.thunks import read_thunks
from seq1f1b_jax.schedule import StageCost
from tests.benchmarks.h100.programs import NAMES, STEP, THUNKS

COST = StageCost(
    model_dim=4, num_heads=2, num_kv_heads=2, head_dim=2, mlp_dim=4, gated=False, vocab_size=8,
    layers_per_stage=(3,),
)  # fmt: skip
SIZES = Sizes(COST, (8,), layers=3)
COMPILED = Compiled(STEP, THUNKS, NAMES, seconds=1.5, held=3 * 10**9)
REPORT = count(COMPILED, SIZES)


def test_every_kernel_of_an_action():
    found = [
        (action, times, kernel.instruction.name, kernel.kind, kernel.flops, *kernel.traffic)
        for action, times, kernel in REPORT.launches()
    ]
    index, tokens, weights, scores = 4, 8 * 4 * 2, 4 * 4 * 2, 2 * 8 * 8 * 4
    assert found == [
        ("F0", 3, "w", "other", 0, index + weights, weights),  # one layer of three
        ("F0", 3, "y", "matmul", 2 * 8 * 4 * 4, tokens + weights, tokens),
        ("F0", 3, "n", "other", 0, index + tokens, tokens),  # in place
        ("B0", 3, "s", "matmul", 2 * 2 * 8 * 8 * 2, 2 * tokens, scores),
        ("B0", 3, "f", "attention", 0, 3 * tokens, tokens),
        ("B0", 3, "e", "other", 0, scores, scores),
        ("B0", 3, "b", "matmul", 2 * 4 * 4 * 8, 2 * tokens + 64, 64),
    ]


def test_rows():
    forward, backward = REPORT.rows
    assert (forward["action"], forward["tokens"], forward["kernels"]) == ("F0", 8, 9)
    assert forward["TFLOP"] == pytest.approx(3 * 256e-12)
    assert forward["other GB"] == pytest.approx(3 * (36 + 32 + 68 + 64) / 1e9)
    assert forward["other"] == pytest.approx(1e3 * 600 / 2.7e12)
    assert forward["roles"] == pytest.approx(1e3 * 128 / 2.7e12)  # the loss
    assert (forward["unknown loops"], forward["dw rounded"]) == (1, 0)
    assert (forward["command buffers"], forward["captured"]) == (1, "no")
    assert (backward["command buffers"], backward["captured"]) == (0, "yes")
    assert (backward["unknown loops"], backward["dw rounded"]) == (0, 3)
    assert backward["score GB"] == pytest.approx(3 * (512 + 512 + 512) / 1e9)  # made, read, copied
    flops = 2.5 * 4 * 2 * (2 * 8 * 8) / 2
    assert backward["in attention"] == pytest.approx(3 * flops / 1e12)
    assert backward["attention"] == pytest.approx(1e3 * 3 * flops / 450e12)


def test_values():
    values = REPORT.values
    milliseconds = values["matmul_ms"] + values["attention_ms"] + values["other_ms"]
    assert values["layer_ms"] == pytest.approx(milliseconds)
    assert values["other_gb"] == pytest.approx(2 * (200 + 1024) / 1e9)  # of two layers
    assert values["score_bytes_gb"] == pytest.approx(2 * 1536 / 1e9)
    assert values["floor_matmul_ms"] == pytest.approx(1e3 * 6 * 8 * (4 * 16 + 2 * 16) / 600e12)
    forward = 4 * 2 * 2 * (8 * 9 / 2)
    attention = forward / 500e12 + 2.5 * forward / 450e12
    assert values["floor_attention_ms"] == pytest.approx(1e3 * attention)
    floor = values["floor_matmul_ms"] + values["floor_attention_ms"]
    assert values["layer_over_floor"] == pytest.approx(values["layer_ms"] / floor)
    assert values["dw_rounded_to_bf16"] == 3
    assert (values["kernels_per_action"], values["kernels_per_action_most"]) == (10.5, 12)
    assert (values["held_gb"], values["compile_seconds"], values["layers"]) == (3.0, 1.5, 3)


def test_loops_that_the_host_reads():
    """Of the two ticks the F are outside of command buffers: one read each, the loss two more."""
    values = REPORT.values
    assert values["loops_with_unknown_trips"] == 2
    assert values["host_reads_per_idle_tick"] == 1
    assert values["host_reads_per_tick"] == 1 + 1 + 2
    assert values["command_buffers_per_tick"] == 1.5


def test_collectives_with_nothing_beside_them_are_exposed():
    values = REPORT.values
    assert (values["collectives"], values["exposed_collectives"]) == (1, 0.5)
    assert values["exposed_collectives_mb"] == pytest.approx(0.5 * 64 / 1e6)
    sync = STEP.replace("{{1,2},{2,1}}", '{{1,2},{2,1}}, backend_config={"is_sync":true}')
    values = count(Compiled(sync, "", "", 1.5, 1), SIZES).values
    assert values["exposed_collectives"] == 1
    assert "host_reads_per_tick" not in values  # thunks were not dumped
    wrapped = STEP.replace(
        "collective-permute-start(%recv)", "async-start(%recv), calls=%exchange"
    ).replace("%weights (p", """%exchange (x: bf16[8,4]) -> bf16[8,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  ROOT %r = bf16[8,4]{1,0} all-to-all(%x), replica_groups={}
}

%weights (p""")  # fmt: skip
    values = count(Compiled(wrapped, "", "", 1.5, 1), SIZES).values
    assert (values["collectives"], values["exposed_collectives"]) == (1, 0.5)


RING = "bf16[4,8,4]{2,1,0:S(5)}"
COPIES = f"""
  %k = ({RING}, bf16[8,4]{{1,0}}) fusion-start(%r, %x), kind=kLoop, calls=%ring
  MATMUL
  %k.done = {RING} fusion-done(%k)
  %h = ({RING}, bf16[8,4]{{1,0}}) fusion-start(%k.done), kind=kLoop, calls=%ring
  %h.done = bf16[8,4]{{1,0}} fusion-done(%h)
  ROOT %t = (s32[], bf16[8,4]{{1,0}}, /*index=2*/bf16[3,4,4]"""


def test_copies_from_and_to_the_host_are_exposed_where_no_matmul_is_between():
    """Two in the body of F, in both ticks: one beside a matmul, one alone."""
    assert REPORT.values["offload_copies"] == 0
    before = "\n  ROOT %t = (s32[], bf16[8,4]{1,0}, /*index=2*/bf16[3,4,4]"
    matmul = "%y.2 = bf16[8,4]{1,0} fusion(%x, %v), kind=kCustom, calls=%gemm"
    for between, exposed in ((matmul, 1), ("%z = bf16[8,4]{1,0} copy(%x)", 2)):
        text = STEP.replace(before, COPIES.replace("MATMUL", between), 1)
        values = count(Compiled(text, "", "", 1.5, 1, host=2 * 10**9), SIZES).values
        assert (values["offload_copies"], values["offload_copies_exposed"]) == (2, exposed)
        assert values["host_gb"] == 2.0


def test_a_gradient_that_is_not_rounded_does_not_count():
    exact = STEP.replace("%d = bf16[4,4]{1,0} dot(%x, %y)", "%d = f32[4,4]{1,0} dot(%x, %y)")
    assert count(Compiled(exact, "", "", 1.5, 1), SIZES).values["dw_rounded_to_bf16"] == 0


def test_largest_kernels_and_their_lines():
    rows = largest(REPORT.program, REPORT.launches(), lengths=SIZES.lengths, count=2)
    assert [row["of"] for row in rows] == ["B", "F"]
    assert (rows[0]["gb"], rows[0]["result"]) == (pytest.approx(3 * 1024 / 1e9), "f32[2,t,t]")
    rows = largest(REPORT.program, REPORT.launches(), lengths=SIZES.lengths, count=9)
    assert rows[-1]["lines"] == "llama.py:7 pre" and rows[-1]["kernels"] == 3


def test_frames_of_an_instruction_are_the_innermost_first():
    program = read_program(STEP)
    weights = program["forward_layer"].named["w"]
    assert [str(frame) for frame in program.frames_of(weights)] == [
        "llama.py:7 pre", "forward.py:20 forward",
    ]  # fmt: skip


def test_thunks_name_what_is_around_a_loop():
    thunks = read_thunks(THUNKS, NAMES)
    assert thunks.inside["m"] == ("scan", "command buffer", "b0")
    assert thunks.inside["last"] == ("scan", "f0")
    assert thunks.is_captured("b1") and not thunks.is_captured("f1")


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        ("HloModule nothing", SIZES, "no computation 'ENTRY'"),
        (STEP.replace(" while(", " custom-call("), SIZES, "no loop"),
        (STEP, Sizes(COST, (4, 3, 1), layers=3), "num_chunks=3"),
        (STEP.replace("stack_frame_id", "frame"), SIZES, "names its source line"),
        (STEP.replace('"dimensions": ["1", "2", "8", "8"]', '"dimensions": []'), SIZES, "f has"),
        (STEP.replace("copy(%s)", "conditional(%s)"), SIZES, "e is a branch"),
    ],
)
def test_what_cannot_be_counted_is_refused(text, sizes, message):
    with pytest.raises(ValueError, match=message):
        count(Compiled(text, "", "", 1.0, 1), sizes)


def test_the_last_line_names_7b_without_prefix(monkeypatch, tmp_path, capsys):
    jax.jit(lambda x: x + 1)(0)  # XLA reads its flags once; not those that `main` sets
    monkeypatch.setattr(settings, "build", lambda setting: None)
    monkeypatch.setattr(settings, "compile_step", lambda step, dumps: COMPILED)
    monkeypatch.setattr(Sizes, "of", classmethod(lambda cls, step: SIZES))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    keep = ["--setting", "7b", "1b", "--keep", str(tmp_path)]
    for words in (keep, [*keep, "--top", "3"]):
        assert h100_program.main(words) == 0
        values = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert values["layer_over_floor"] == REPORT.values["layer_over_floor"]
        assert values["1b_setting"]["preset"] == "1.3b"
        assert values["constants"]["matmul_tflops"] == 600
    with pytest.raises(ValueError, match="layers=5"):
        h100_program.main([*keep, "--layers", "5"])
