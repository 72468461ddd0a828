"""The compiled program, read on CPU and for four H100s that are not there (extra `aot`).

Nothing of a carried buffer's shape is copied or transposed inside the tick loop, there is one
collective-permute per tick, and the actions are loops.
"""

import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.aot import h100_mesh, has_aot
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.executor.initial import state_shapes
from seq1f1b_jax.schedule import Exchange, make_plan
from tests.compiled import compiled
from tests.pipeline.hlo import Module, buffer_copies, squeezed

MICROBATCHES, CHUNKS, LENGTH = 5, 3, 128
needs_aot = pytest.mark.skipif(not has_aot(), reason="needs the extra `aot`: pip install '.[aot]'")

slow = pytest.mark.slow
ADDED_MATMUL = r"= \(f32\[([\d,]+)\].* custom-call\(.*cublas.*\"beta\":1\D"

DOCUMENTS, PIPELINES, TENSOR = ", documents", ", two pipelines", ", layers cut over two devices"

PROGRAMS = {
    "gpt, stores all, equal stages": ("gpt", "none", (3, 3, 3, 3), "seq1f1b"),
    "llama, selective, unequal stages": ("llama", "selective", (3, 2, 3, 1), "seq1f1b"),
    "llama, full": ("llama", "full", (3, 3, 3, 3), "seq1f1b"),
    "llama, one stage": ("llama", "selective", (4,), "seq1f1b"),
    "llama, one small stage": ("llama", "selective", (2,), "seq1f1b"),
    "llama, split backwards": ("llama", "selective", (3, 3, 3, 3), "seq-zb-h1"),
    "gpt, split backwards that recompute": ("gpt", "full", (3, 3, 3, 3), "seq-zb-h1"),
    "llama, ring": ("llama", "selective", (3,) * 8, "seq1f1b-i"),
    "gpt, lock-step": ("gpt", "none", (3, 3, 3, 3), "seq1f1b-lockstep"),
}


def build(
    name: str, make_mesh, *, dtype=jnp.float32, attention: str = "xla_blockwise", unroll: int = 0
):
    """float32 on CPU: its compiler widens bfloat16 weights, whole and once per tick."""
    plain = name.removesuffix(DOCUMENTS).removesuffix(PIPELINES).removesuffix(TENSOR)
    family, recompute, layers, schedule = PROGRAMS[plain]
    stages_per_rank = 2 if schedule == "seq1f1b-i" else 1
    num_data = 2 if name.endswith(PIPELINES) else 1
    num_tensor = 2 if name.endswith(TENSOR) else 1
    mesh = make_mesh(len(layers) // stages_per_rank, num_data=num_data, num_tensor=num_tensor)
    stage = build_stage(
        family,
        num_layers=sum(layers),
        model_dim=64,
        num_heads=4,
        num_kv_heads=4 if family == "gpt" else 2,
        vocab_size=251,
        max_positions=CHUNKS * LENGTH + 1,  # else learned positions look like loss gradients
    )
    plan = make_plan(
        schedule,
        num_ranks=mesh.shape["pipe"],
        num_microbatches=MICROBATCHES,
        num_chunks=CHUNKS,
        stages_per_rank=stages_per_rank,
    )
    return build_step(
        stage,
        plan,
        mesh,
        chunk_lengths=(LENGTH,) * CHUNKS,
        layers_per_stage=layers,
        options=ExecutorOptions(
            attention=attention,
            recompute=recompute,
            unroll=unroll,
            compute_dtype=dtype,
            restart_positions=name.endswith(DOCUMENTS),
            sequence_parallel=num_tensor > 1,
        ),
    )


def h100s(num_ranks: int, *, num_data: int, num_tensor: int):
    axes = {"data": num_data, "pipe": num_ranks, "tensor": num_tensor}
    axes = {name: size for name, size in axes.items() if size > 1 or name == "pipe"}
    return h100_mesh(tuple(axes.values()), tuple(axes))


def batch_of(step):
    spread = PartitionSpec(None, "data") if step.num_data > 1 else PartitionSpec()
    shape = (MICROBATCHES, step.num_data, CHUNKS * LENGTH)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(step.mesh, spread))
    return (tokens,) * (3 if step.options.restart_positions else 2)


def compile_step(step, **options):
    lowered = jax.jit(step.loss_and_grads).lower(step.abstract_params(), *batch_of(step))
    return compiled(lowered, **options)


def buffer_shapes(step) -> list[tuple[int, ...]]:
    """Shapes of the carried buffers but for the tables, to which dense products are added."""
    state = state_shapes(step.program(1))
    grads = None if step.unrolled else state.grads.layers  # unrolled, matmuls write into them
    carried = state._replace(grads=grads, loss=None)
    shapes = [leaf.shape for leaf in jax.tree.leaves(carried)]
    if step.table.num_inbox_slots > 1:
        shapes.append((step.table.num_inbox_slots, *step.program(1).message_shape))
    return [shape for shape in shapes if math.prod(shape) > 1000]


def batched_matmuls(step) -> int:
    """Matmuls over a batch of heads: only attention has such."""
    traced = jax.make_jaxpr(step.loss_and_grads)(step.abstract_params(), *batch_of(step))
    return len(re.findall(r"dimension_numbers=\(\(\[[\d, ]*\], \[[\d, ]*\]\), \(\[\d", str(traced)))


def check_program(text: str, step) -> None:
    module = Module(text)
    body = module.scan_body()
    assert buffer_copies(module, buffer_shapes(step)) == []
    alone = step.mesh.shape["pipe"] == 1
    assert module.permutes(body) == (0 if alone else 2)  # one in each of the two ticks
    if step.table.exchange is Exchange.LOCKSTEP:  # F in one tick, B in the other, each in a loop
        loops = [loop for outer in module.whiles(body) for loop in inner_loops(module, outer)]
        assert len(module.whiles(body)) == 2
        assert len(loops) == len(step.table.ops) * CHUNKS
        order = [i.opcode.removeprefix("collective-") for i in module.computations[body]]
        if "permute-start" in order:  # on GPUs; each spans the action of its tick
            spans = [opcode for opcode in order if opcode.startswith(("permute-", "while"))]
            assert spans == 2 * ["permute-start", "while", "permute-done"]
    else:  # F and B, or F, I and W, of every chunk in both ticks, or in the only one
        assert len(module.whiles(body)) == (1 if alone else 2) * len(step.table.ops) * CHUNKS
    inside = module.reachable(body)
    assert [name for name in inside - {body} if module.permutes(name)] == []
    reductions = [i for name in inside for i in module.computations[name] if is_reduction(i)]
    assert bool(reductions) == (step.tensor.size > 1)  # test_tensor_axis counts and places them
    scattered = [i for i in module.computations[module.entry] if i.opcode.startswith("reduce-sc")]
    has_table = bool(step.layout.position_tables) and not alone  # its gradient, once per step
    assert bool(scattered) == (step.num_data > 1 or has_table)


def inner_loops(module: Module, loop) -> list:
    return module.whiles(loop.called("body"))


def is_reduction(instruction) -> bool:
    """Whether it is a collective of many; there must be none over `data` in the loop."""
    return instruction.opcode.startswith(("all-", "reduce-scatter"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gpt, stores all, equal stages", marks=slow),
        "llama, one stage" + DOCUMENTS,
        pytest.param("llama, split backwards", marks=slow),
        "llama, ring",
    ],
)
def test_cpu_program(name):
    step = build(name, make_mesh)
    check_program(compile_step(step).as_text(), step)


@needs_aot
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("llama, selective, unequal stages" + DOCUMENTS, marks=slow),
        pytest.param("gpt, stores all, equal stages" + TENSOR, marks=slow),
    ],
)
def test_h100_program(name):
    step = build(name, h100s, dtype=jnp.bfloat16)
    text = compile_step(step).as_text()
    check_program(text, step)
    unwritten = state_shapes(step.program(1))._replace(grads=None, loss=None)
    assert text.count('"AllocateBuffer"') == len(jax.tree.leaves(unwritten))  # none is filled


@needs_aot
@pytest.mark.parametrize(
    "name",
    [
        "llama, one small stage",
        pytest.param("llama, selective, unequal stages" + DOCUMENTS, marks=slow),
        pytest.param("llama, split backwards" + TENSOR, marks=slow),
    ],
)
def test_unrolled_h100_program_adds_gradients_in_their_matmuls(name):
    """`acc = 1 acc + x' dy`, all in one call: no gradient is rounded, or written and read again."""
    step = build(name, h100s, dtype=jnp.bfloat16, unroll=4)
    options = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}
    text = compile_step(step, **options).as_text()
    check_program(text, step)
    added = Counter(
        squeezed(map(int, dims.split(","))) for dims in re.findall(ADDED_MATMUL, text)
    )
    program = step.program(1)
    shapes = [leaf.shape for leaf in jax.tree.leaves(program.layer_shapes) if len(leaf.shape) > 1]
    expected = Counter(squeezed((math.prod(rows), cols)) for *rows, cols in shapes)
    ticks = 2 if step.mesh.shape["pipe"] > 1 else 1  # in the body of the scan
    places = step.layout.max_layers * CHUNKS * ticks
    assert {shape: added[shape] for shape in expected} == {
        shape: places * count for shape, count in expected.items()
    }


@slow
@pytest.mark.parametrize(
    "name",
    [
        "llama, one stage",
        "llama, selective, unequal stages",
        "gpt, lock-step",
        "llama, split backwards" + DOCUMENTS,
    ],
)
def test_more_cpu_programs(name):
    step = build(name, make_mesh)
    check_program(compile_step(step).as_text(), step)


@needs_aot
@slow
@pytest.mark.parametrize(
    "name",
    [
        "gpt, stores all, equal stages",
        "gpt, lock-step",
        "llama, ring",
        "llama, selective, unequal stages",
        "llama, split backwards" + DOCUMENTS,
        "llama, split backwards" + PIPELINES,
        "llama, split backwards" + TENSOR,
    ],
)
def test_more_h100_programs(name):
    step = build(name, h100s, dtype=jnp.bfloat16)
    check_program(compile_step(step).as_text(), step)


@needs_aot
@pytest.mark.parametrize(
    "name", ["llama, selective, unequal stages", pytest.param("gpt, lock-step", marks=slow)]
)
def test_h100_program_with_cudnn_has_no_other_attention(name):
    step = build(name, h100s, dtype=jnp.bfloat16, attention="auto")
    text = compile_step(step).as_text()
    check_program(text, step)
    ticks = 1 if step.table.exchange is Exchange.LOCKSTEP else 2  # F in one tick, or in both
    calls = ticks * (2 * CHUNKS - 1)  # own part and prefix
    for target in ("fmhaSoftmax", "fmhaSoftmaxBackward"):
        assert text.count(f'custom_call_target="__cudnn${target}"') == calls
    assert batched_matmuls(step) == 0
    assert batched_matmuls(build(name, h100s, dtype=jnp.bfloat16)) > 0


@needs_aot
@slow
@pytest.mark.parametrize("attention", ["xla_dense", "xla_blockwise"])
@pytest.mark.parametrize("name", ["llama, full", "gpt, split backwards that recompute"])
def test_h100_program_that_recomputes(name, attention):
    step = build(name, h100s, dtype=jnp.bfloat16, attention=attention)
    check_program(compile_step(step).as_text(), step)


def test_the_reader_sees_a_planted_copy():
    step = build("gpt, stores all, equal stages", make_mesh)
    shape = state_shapes(step.program(1)).keys.shape
    dims = ",".join(map(str, shape))
    text = f"""
%fused (a: f32[{dims}], b: f32[1]) -> f32[{dims}] {{
  %a = f32[{dims}] parameter(0)
  %moved = f32[{dims}] transpose(%a), dimensions={{0,1}}
  ROOT %update = f32[{dims}] dynamic-update-slice(%moved, %b, %i)
}}

%body (p: (f32[{dims}])) -> (f32[{dims}]) {{
  %p = (f32[{dims}]) parameter(0)
  %old = f32[{dims}]{{4,3,2,1,0}} get-tuple-element(%p), index=0
  %planted = f32[{dims}]{{3,4,2,1,0}} copy(%old)
  %sent = f32[1] collective-permute(%x), source_target_pairs={{{{0,1}}}}
  %hidden = f32[{dims}] fusion(%old, %x), kind=kLoop, calls=%fused
  ROOT %t = (f32[{dims}]) tuple(%planted)
}}

ENTRY %main (a: f32[1]) -> f32[1] {{
  %w = (f32[{dims}]) while(%a), condition=%cond, body=%body
}}
"""
    found = buffer_copies(Module(text), [shape])
    assert len(found) == 2 and "planted" in found[0] and "hidden" in found[1]
