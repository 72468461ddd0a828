"""Layers whose values wait in host memory: the same bits, and copies beside matmuls."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.h100.hlo import read_program
from benchmarks.h100.overlap import host_copies
from seq1f1b_jax.pipeline.executor.layers.residuals import ArenaEntry
from seq1f1b_jax.pipeline.executor.store import (
    Place,
    fetch_values,
    open_values,
    store_shapes,
    to_host,
    write_values,
)
from seq1f1b_jax.pipeline.memory import predict_memory
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.test_exact import some_slow
from tests.pipeline.test_program import build, check_program, compile_step, h100s, needs_aot

CASES = {
    "a loop": Case(P=2, M=2, C=2, lengths="odd", offload=0.5),
    "unrolled": Case(P=2, M=2, C=2, lengths="odd", offload=0.5, unroll=2),
    "split, all layers": Case(P=2, M=2, C=2, schedule="seq-zb-h1", offload=1.0),
}


@pytest.mark.parametrize("case", some_slow(CASES.values(), every=3), ids=CASES)
def test_the_same_bits_with_and_without(case):
    """With NaN in all that was not written, on the host too."""
    found = []
    with jax.enable_x64(True):
        for part in (0.0, case.offload):
            step = cases.build(case._replace(offload=part), fill=float("nan"))
            params = step.from_canonical(cases.parameters(step.stage, case.dtype))
            found.append(jax.jit(step.loss_and_grads)(params, *cases.batch_of(case)))
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize("on_host", [False, True])
def test_values_of_several_dtypes_come_back(on_host):
    kinds = [("x", (1, 4, 6), "bfloat16"), ("lse", (1, 3, 4), "float32"), ("kept", (4,), "bool")]
    entries = {name: ArenaEntry(name, shape, jnp.dtype(dtype)) for name, shape, dtype in kinds}
    shapes = store_shapes(
        entries.values(), chunk_length=4, tokens=10, num_layers=2, num_host_layers=1
    )
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.device)) == 250
    assert (shapes.host.shape, shapes.host.dtype) == ((1, 10, 12 + 12 + 1), jnp.uint8)
    store = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    store = store._replace(host=to_host(store.host))
    values = {
        name: jnp.arange(entry.size).reshape(entry.shape).astype(entry.dtype) / 3 > 0.5
        if name == "kept" else (jnp.arange(entry.size).reshape(entry.shape) / 3).astype(entry.dtype)
        for name, entry in entries.items()
    }  # fmt: skip
    place = Place(on_host, 0, jnp.int32(5), 4)
    store = write_values(store, entries, values, place)
    found = open_values(entries, fetch_values(store, entries, place))
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@needs_aot
@pytest.mark.parametrize(
    ("name", "unroll"),
    [
        pytest.param("llama, selective, unequal stages", 0, marks=pytest.mark.slow),
        ("llama, one small stage", 4),
        pytest.param("llama, split backwards", 0, marks=pytest.mark.slow),
    ],
)
def test_copies_of_the_h100_program_run_beside_matmuls(name, unroll):
    step = build(name, h100s, dtype=jnp.bfloat16, unroll=unroll)
    step = replace(step, num_host_layers=1)
    compiled = compile_step(step)
    text, program = compiled.as_text(), read_program(compiled.as_text())
    check_program(text, step)
    copies = list(host_copies(program, program.entry))
    ticks = 2 if step.mesh.shape["pipe"] > 1 else 1
    kinds = 4 if "split" in name else 2  # F writes, B reads; I does both, W reads twice
    assert len(copies) >= kinds * ticks * len(step.table.chunk_lengths)
    assert not [copy.name for copy in copies if copy.is_exposed]
    host = predict_memory(step.program(1)).host
    assert compiled.memory_analysis().host_temp_size_in_bytes == host
