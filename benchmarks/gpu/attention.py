"""TFLOP/s of attention by (queries, offset), against whole sequences and the chip's matmul."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import cases, report
from benchmarks.gpu.numerics import reason_against_cudnn
from benchmarks.gpu.run import Run
from benchmarks.gpu.sizes import Heads
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.ops.attention import Prefix, get_backend

FORWARD, BACKWARD = 4, 10
"""FLOPs per pair of query and key, head and number of a head: two matmuls, and five."""

BLOCKWISE_AT = 1
"""Which (queries, offset) of the first heads `xla_blockwise` is timed at."""

MATMUL = "matmul"


def submit(run: Run) -> None:
    """Compile forward and backward at every (queries, offset)."""
    side = jax.ShapeDtypeStruct((run.sizes.matmul,) * 2, jnp.bfloat16)
    run.programs.submit(MATMUL, lambda: jax.jit(jnp.matmul).lower(side, side))
    for backend, heads, queries, offset in _chunks(run):
        q, own, before = _shapes(heads, queries, offset)
        lse = jax.ShapeDtypeStruct((1, heads[0], queries), jnp.float32)
        programs = {
            "forward": (_forward, (q, own, own, before, before)),
            "backward": (_backward, (q, own, own, before, before, q, lse, q)),
        }
        for way, (function, shapes) in programs.items():
            name = _name(backend, heads, queries, offset, way)
            jitted = jax.jit(partial(function, backend))
            run.programs.submit(name, partial(jitted.lower, *shapes))
    for heads, implementation in _wholes(run):
        q, own, _ = _shapes(heads, run.sizes.whole_len, 0)
        for way, function in _whole(implementation).items():
            shapes = (q, own, own, q)
            name = _name(f"jax.nn {implementation}", heads, run.sizes.whole_len, 0, way)
            run.programs.submit(name, partial(jax.jit(function).lower, *shapes))


def measure(run: Run) -> None:
    """Time them; rows under `attention`, the ceiling under `matmul_tflops`."""
    sizes, rows = run.sizes, []
    run.values["attention"] = rows
    square = jnp.ones((sizes.matmul,) * 2, jnp.bfloat16)
    ceiling = run.case(MATMUL, lambda: _time(run, MATMUL, square, square)["seconds"])
    if ceiling:
        run.values["matmul_tflops"] = 2 * sizes.matmul**3 / ceiling / 1e12
    for backend, heads, queries, offset in _chunks(run):
        row = {"case": backend, "heads": list(heads), "queries": queries, "offset": offset}
        rows.append(row | _chunk(run, backend, heads, queries, offset))
        print(rows[-1], flush=True)
    for heads, implementation in _wholes(run):
        case, length = f"jax.nn {implementation}", sizes.whole_len
        row = {"case": case, "heads": list(heads), "queries": length, "offset": 0}
        rows.append(row | _whole_row(run, case, heads, length))
        print(rows[-1], flush=True)
    if reason := reason_against_cudnn(next(iter(sizes.attention))[2]):
        rows.append({"case": "cudnn", "skipped": reason})
    for row in rows:
        for key in ("forward_tflops", "backward_tflops", "both_tflops"):
            if row.get(key) and ceiling:
                row[key.replace("tflops", "of_matmul")] = row[key] / run.values["matmul_tflops"]
    report.show("attention, bfloat16, one sequence", rows)


def _chunks(run: Run) -> list[tuple[str, Heads, int, int]]:
    """Backend, heads, queries and offset of every chunk that is timed."""
    found = [
        ("cudnn", heads, *at)
        for heads, places in run.sizes.attention.items()
        if reason_against_cudnn(heads[2]) is None
        for at in places
    ]
    heads, places = next(iter(run.sizes.attention.items()))
    return [*found, ("xla_blockwise", heads, *places[min(BLOCKWISE_AT, len(places) - 1)])]


def _wholes(run: Run) -> list[tuple[Heads, str]]:
    return [
        (heads, "cudnn" if reason_against_cudnn(heads[2]) is None else "xla")
        for heads in run.sizes.attention
    ]


def _name(backend: str, heads: Heads, queries: int, offset: int, way: str) -> str:
    return f"attention {backend} {'x'.join(map(str, heads))} {queries} at {offset} {way}"


def _shapes(heads: Heads, queries: int, offset: int):
    """Of queries, own keys and those of the prefix."""
    num_heads, num_kv_heads, dim = heads
    shapes = ((queries, num_heads), (queries, num_kv_heads), (offset, num_kv_heads))
    return [jax.ShapeDtypeStruct((1, *shape, dim), jnp.bfloat16) for shape in shapes]


def _backend(name: str):
    return get_backend(name, platform=jax.devices()[0].platform)


def _prefix(k, v) -> Prefix | None:
    return Prefix(k, v) if k.shape[1] else None


def _forward(name: str, q, k, v, prefix_k, prefix_v):
    return _backend(name).forward(q, k, v, _prefix(prefix_k, prefix_v))


def _backward(name: str, q, k, v, prefix_k, prefix_v, out, lse, dout):
    return _backend(name).backward(q, k, v, _prefix(prefix_k, prefix_v), out, lse, dout)


def _whole(implementation: str) -> dict[str, Callable]:
    attend = cases.jax_nn(implementation)
    return {
        "forward": lambda q, k, v, dout: attend(q, k, v),
        "both": lambda q, k, v, dout: jax.vjp(attend, q, k, v)[1](dout),
    }


def _draw(shapes) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(shapes))
    pairs = zip(keys, shapes, strict=True)
    return [jax.random.normal(key, shape.shape, shape.dtype) for key, shape in pairs]


def _time(run: Run, name: str, *arguments) -> dict[str, float]:
    call = run.programs.get(name).call
    return time_calls(
        call, *arguments, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds, queue=True
    )


def _chunk(run: Run, backend: str, heads: Heads, queries: int, offset: int) -> dict[str, Any]:
    q, own, before = _shapes(heads, queries, offset)
    arguments = _draw((q, own, own, before, before))
    num_pairs = queries * offset + queries * (queries + 1) / 2
    name = partial(_name, backend, heads, queries, offset)
    row: dict[str, Any] = {}
    timing = run.case(name("forward"), lambda: _time(run, name("forward"), *arguments))
    if timing is None:
        return row
    out, lse = run.programs.get(name("forward")).call(*arguments)
    row |= _speed("forward", timing, FORWARD * num_pairs * heads[0] * heads[2])
    row["forward_workspace_mb"] = _workspace(run, name("forward"))
    dout = _draw((q,))[0]
    timing = run.case(
        name("backward"), lambda: _time(run, name("backward"), *arguments, out, lse, dout)
    )
    if timing is not None:
        row |= _speed("backward", timing, BACKWARD * num_pairs * heads[0] * heads[2])
        row["backward_workspace_mb"] = _workspace(run, name("backward"))
    return row


def _whole_row(run: Run, case: str, heads: Heads, length: int) -> dict[str, Any]:
    q, own, _ = _shapes(heads, length, 0)
    arguments, row = _draw((q, own, own, q)), {}
    num_pairs = length * (length + 1) / 2
    for way, flops in (("forward", FORWARD), ("both", FORWARD + BACKWARD)):
        name = _name(case, heads, length, 0, way)
        timing = run.case(name, partial(_time, run, name, *arguments))
        if timing is not None:
            row |= _speed(way, timing, flops * num_pairs * heads[0] * heads[2])
    return row


def _speed(way: str, timing: dict[str, float], flops: float) -> dict[str, float]:
    seconds = timing["seconds"]
    return {
        f"{way}_ms": 1e3 * seconds, f"{way}_tflops": flops / seconds / 1e12,
        f"{way}_spread": timing["spread"],
    }  # fmt: skip


def _workspace(run: Run, name: str) -> float | None:
    return workspace_mb(run.programs.get(name).call.as_text())


def workspace_mb(text: str) -> float | None:
    """The largest scratch of a compiled program's calls of cuDNN attention; `None`: it has none.

    Example:
      >>> text = '(bf16[8], u8[3000000]) custom-call(q), custom_call_target="__cudnn$fmhaSoftmax"'
      >>> workspace_mb(text)
      3.0
    """
    calls = [line for line in text.splitlines() if '"__cudnn$fmha' in line]
    sizes = [int(size) for line in calls for size in re.findall(r"\bu8\[(\d+)\]", line)]
    return max(sizes, default=0) / 1e6 if calls else None
