"""Bytes of fusions that read or write parts of arrays, and of programs that are really compiled."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.aot import h100_mesh, has_aot
from benchmarks.h100.count import Sizes, count
from benchmarks.h100.hlo import Shape, bits, read_program
from benchmarks.h100.kernels import launches
from benchmarks.h100.settings import Setting, build, compile_step
from benchmarks.h100.traffic import traffic

FUSION = """
%inside (p: f32[8,16], i: s32[2,1]) -> f32[16] {{
  %p = f32[8,16]{{1,0}} parameter(0)
  %i = s32[2,1]{{1,0}} parameter(1)
  {lines}
}}

ENTRY %main (p: f32[8,16], i: s32[2,1]) -> f32[16] {{
  %p = f32[8,16]{{1,0}} parameter(0)
  %i = s32[2,1]{{1,0}} parameter(1)
  ROOT %f = f32[16]{{0}} fusion(%p, %i), kind=kLoop, calls=%inside
}}
"""
ALL, ROW, INDICES = 8 * 16 * 4, 16 * 4, 2 * 4


@pytest.mark.parametrize(
    ("lines", "read", "written"),
    [
        (["ROOT %a = f32[8,16]{1,0} add(%p, %p)"], ALL, ALL),
        (["ROOT %g = f32[2,16]{1,0} gather(%p, %i)"], 2 * ROW + INDICES, 2 * ROW),
        (  # a slice of a slice: only what is left is read
            ["%s = f32[4,16]{1,0} slice(%p)", "ROOT %t = f32[1,16]{1,0} slice(%s)"], ROW, ROW,
        ),
        (  # two slices, each read
            [
                "%s = f32[1,16]{1,0} slice(%p)", "%t = f32[1,16]{1,0} slice(%p)",
                "ROOT %a = f32[1,16]{1,0} add(%s, %t)",
            ],
            2 * ROW, ROW,
        ),
        (  # a cast is computed only where it is needed
            ["%c = bf16[8,16]{1,0} convert(%p)", "ROOT %s = bf16[1,16]{1,0} slice(%c)"],
            ROW, ROW // 2,
        ),
        (  # a sum over rows is not
            [
                "%r = f32[16]{0} reduce(%p, %i), dimensions={0}",
                "ROOT %s = f32[4]{0} slice(%r)",
            ],
            ALL + INDICES, 16,
        ),
        (  # sliced, but all of it is needed too
            ["%s = f32[1,16]{1,0} slice(%p)", "ROOT %t = (f32[1,16], f32[8,16]) tuple(%s, %p)"],
            ALL, ALL + ROW,
        ),
        (  # in place, through a view
            [
                "%s = f32[1,16]{1,0} slice(%p)", "%v = f32[8,16]{1,0} bitcast(%p)",
                "%u = f32[8,16]{1,0} dynamic-update-slice(%v, %s, %i, %i)",
                "ROOT %w = f32[8,16,1]{2,1,0} bitcast(%u)",
            ],
            ROW + INDICES, ROW,
        ),
        (
            ["%z = f32[2,16]{1,0} constant(0)", "ROOT %s = f32[8,16]{1,0} scatter(%p, %i, %z)"],
            INDICES, 2 * ROW,
        ),
    ],
    ids="whole gather twice two cast sum both in-place scatter".split(),
)  # fmt: skip
def test_parts_count_as_parts(lines, read, written):
    program = read_program(FUSION.format(lines="\n  ".join(lines)))
    assert traffic(program, program["main"], program["main"].root) == (read, written)


def test_sizes_of_dtypes():
    assert [bits(name) for name in ("bf16", "f8e4m3fn", "s4", "pred", "c64", "token")] == [
        16, 8, 4, 8, 64, 0,
    ]  # fmt: skip
    assert Shape("s4", (3,)).nbytes == 2
    assert Shape("f32", ()).nbytes == 4


needs_aot = pytest.mark.skipif(not has_aot(), reason="needs the extra `aot`: pip install '.[aot]'")


@needs_aot
def test_matmuls_in_a_loop_that_writes_rows():
    """Compiled for an H100: each trip counts, and each writes one row of the buffer, in place."""

    def run(x, w, rows):
        def body(i, carry):
            x, rows = carry
            x = jnp.tanh(x @ w)
            return x, lax.dynamic_update_slice(rows, x[None], (i, 0, 0))

        return lax.fori_loop(0, 5, body, (x, rows))

    sharding = NamedSharding(h100_mesh((1,), ("pipe",)), PartitionSpec())
    x, w, rows = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)
        for shape in ((2048, 1024), (1024, 1024), (8, 2048, 1024))
    )
    compiled = jax.jit(run, donate_argnums=(0, 2)).lower(x, w, rows).compile()
    program = read_program(compiled.as_text())
    found = list(launches(program, program.entry))
    assert sum(times * kernel.flops for times, kernel in found) == 5 * 2 * 2048 * 1024**2
    row = 2048 * 1024 * 2
    written = [(times, k.traffic.written) for times, k in found if k.traffic.written > row // 2]
    assert written and set(written) == {(5, row)}


@needs_aot
@pytest.mark.slow
def test_a_step_does_the_matmuls_of_the_model(tmp_path):
    """Compiled for H100s: the FLOPs of every action are those of the model, to the last one."""
    setting = Setting(
        "llama", "small", pipe=2, num_microbatches=2, num_chunks=2, seq_len=2048, layers=2,
        attention="xla_dense", recompute="none",
    )  # fmt: skip
    step = build(setting)
    report = count(compile_step(step, dumps=tmp_path), Sizes.of(step))
    cost = Sizes.of(step).cost
    lengths = step.table.chunk_lengths
    for row in report.rows:
        chunk = int(row["action"][1])
        start, length = sum(lengths[:chunk]), lengths[chunk]
        weights = cost.costs(lengths).weights[0][chunk]
        square = setting.layers * 4 * cost.head_dim * cost.num_heads * length * (start + length)
        matmuls = {"F": 1, "B": 2}[row["action"][0]] * weights
        attention = {"F": 1, "B": 2.5}[row["action"][0]] * square
        assert row["TFLOP"] * 1e12 == pytest.approx(matmuls + attention, rel=1e-12)
