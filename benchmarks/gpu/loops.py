"""What a tick costs the host: reads of loop conditions; attention kernels in loops and graphs."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.common import report
from benchmarks.gpu.compiling import preset_options
from benchmarks.gpu.numerics import reason_against_cudnn
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.ops.attention import Prefix, get_backend
from seq1f1b_jax.pipeline.executor.control import run_if

LOOPS = 8
IDLE = "loop checks"
GATED, BUFFERED = "in 0/1 loops", "in 0/1 loops, recorded in a command buffer"


def reads_per_tick(text: str, ticks: int) -> float:
    """Loop conditions that the host reads in a tick in which an action of one rank runs.

    Every loop whose trips the compiler does not know is checked once, and the one that runs once
    more. A step of one rank has such loops in its ticks only. Those that a command buffer holds
    are counted, too.

    Args:
      text: of the compiled program.
      ticks: that the program holds (`scan.ticks_of_iteration`).

    Example:
      >>> program = '''while(%a), backend_config={"known_trip_count":{"n":"2"}}
      ... while(%b), body=%c
      ... while(%d), body=%e'''
      >>> reads_per_tick(program, 1)
      3.0
    """
    loops = [line for line in text.splitlines() if " while(" in f" {line}"]
    return sum("known_trip_count" not in line for line in loops) / ticks + 1


def submit_checks(run: Run) -> None:
    """Compile a scan over ticks of eight loops that run at most once."""
    flags = jax.ShapeDtypeStruct((LOOPS,), jnp.bool_)
    run.programs.submit(IDLE, lambda: jax.jit(_looping(run.sizes.loop_trips)).lower(flags))


def measure_checks(run: Run) -> None:
    """Host cost of a 0/1-trip loop; rows under `loop_checks`, microseconds per check and trip."""
    rows, trips = [], run.sizes.loop_trips
    for name, per_tick in (("none runs", 0), ("one of eight runs", 1), ("all run", LOOPS)):
        seconds = time_calls(
            run.programs.get(IDLE).call, jnp.arange(LOOPS) < per_tick, repeats=5, case_seconds=10
        )["seconds"]
        rows.append({"case": name, "ticks": trips, "loops_per_tick": LOOPS,
                     "microseconds_per_tick": 1e6 * seconds / trips})  # fmt: skip
    idle, _, full = (row["microseconds_per_tick"] for row in rows)
    run.values["loop_checks"] = rows
    run.values["microseconds_per_check"] = idle / LOOPS
    run.values["microseconds_per_trip"] = (full - idle) / LOOPS
    report.show("0/1-trip loops whose body is one tiny kernel", rows)


def _looping(trips: int) -> Callable:
    def tick(value, flags):
        for index in range(LOOPS):
            value = run_if(flags[index], lambda x: x * 1.0001 + 1.0, value)
        return value, None

    def run(flags):
        columns = jnp.broadcast_to(flags, (trips, LOOPS))
        return lax.scan(tick, jnp.ones((128,)), columns)[0]

    return run


def submit_kernels(run: Run) -> None:
    """Compile eight forwards of a chunk's attention, in several kinds of loop."""
    shapes = [jax.ShapeDtypeStruct((LOOPS,), jnp.bool_), *_shapes(run)]
    for name, function in _kinds(run).items():
        options = preset_options("command_buffers") if name == BUFFERED else None
        run.programs.submit(name, partial(jax.jit(function).lower, *shapes), options=options)


def measure_kernels(run: Run) -> None:
    """Time and compare them; rows under `kernels_in_loops`."""
    keys = jax.random.split(jax.random.key(0), 5)
    pairs = zip(keys, _shapes(run), strict=True)
    values = [jax.random.normal(key, shape.shape, shape.dtype) for key, shape in pairs]
    every, none = jnp.ones((LOOPS,), jnp.bool_), jnp.zeros((LOOPS,), jnp.bool_)
    rows, results = [], {}
    for name in _kinds(run):
        row = run.case(name, partial(_kernel_row, run, name, every, values, results))
        if row:
            rows.append(row)
    for name in (GATED, BUFFERED):
        idle = run.case(f"{name}, none runs", partial(_kernel_row, run, name, none, values, {}))
        if idle:
            rows.append(idle | {"case": f"{name}, none runs"})
    first = next(iter(results.values()), None)
    for row in rows:
        if row["case"] in results:
            row["same_bits"] = bool(np.array_equal(first, results[row["case"]]))
    run.values["kernels_in_loops"] = rows
    report.show(f"{_attention(run)} in loops: per call of the kernel", rows)


def _attention(run: Run) -> str:
    dim = run.sizes.loop[0][2]
    return "cudnn" if reason_against_cudnn(dim) is None else "xla_blockwise"


def _shapes(run: Run) -> list[jax.ShapeDtypeStruct]:
    (heads, kv_heads, dim), queries, offset = run.sizes.loop
    shapes = [(queries, heads), *[(queries, kv_heads)] * 2, *[(offset, kv_heads)] * 2]
    return [jax.ShapeDtypeStruct((1, *shape, dim), jnp.bfloat16) for shape in shapes]


def _kinds(run: Run) -> dict[str, Callable]:
    backend = get_backend(_attention(run), platform=jax.devices()[0].platform)

    def attend(q, k, v, prefix_k, prefix_v):
        return backend.forward(q, k, v, Prefix(prefix_k, prefix_v))[0]

    def unrolled(flags, q, *keys):
        for _ in range(LOOPS):
            q = attend(q, *keys)
        return q

    def scanned(flags, q, *keys):
        return lax.scan(lambda q, _: (attend(q, *keys), None), q, None, length=LOOPS)[0]

    def gated(flags, q, *keys):
        for index in range(LOOPS):
            q = run_if(flags[index], lambda q: attend(q, *keys), q)
        return q

    return {"unrolled": unrolled, "in a scan": scanned, GATED: gated, BUFFERED: gated}


def _kernel_row(run: Run, name: str, flags, values, results: dict) -> dict:
    call = run.programs.get(name).call
    timing = time_calls(
        call, flags, *values, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds
    )
    results[name] = np.asarray(call(flags, *values), np.float32)
    return {"case": name, "ms_per_call": 1e3 * timing["seconds"] / LOOPS,
            "spread": timing["spread"]}  # fmt: skip
