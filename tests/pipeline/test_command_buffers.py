"""A tick that the host does not interrupt, in the program for two H100s that are not there.

With `--xla.preset command_buffers`, unrolled layers and cuDNN, what the host launches in a tick is
one command buffer with all loops of the actions, and the exchange. Loops in a command buffer repeat
on the device: the host reads no condition.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.aot import has_aot
from seq1f1b_jax.cli.xla_presets import PRESETS, flags_text

ROOT = Path(__file__).parents[2]

SCRIPT = """
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.aot import h100_mesh
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step
from seq1f1b_jax.schedule import make_plan

mesh = h100_mesh((2,), ("pipe",))
stage = build_stage("llama", num_layers=4, model_dim=32, num_heads=2, vocab_size=64)
plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
options = ExecutorOptions(attention="cudnn", compute_dtype=jnp.bfloat16, unroll=2)
step = build_step(stage, plan, mesh, chunk_lengths=(128, 128), options=options)
ids = jax.ShapeDtypeStruct((2, 1, 256), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec()))
jax.jit(step.loss_and_grads).lower(step.abstract_params(), ids, ids).compile()
"""
CHUNKS, OPERATIONS, TICKS = 2, 2, 2


def launched(sequence: str) -> list[tuple[str, ...]]:
    """Kinds of what the host launches, each behind those around it, from XLA's list of thunks."""
    found, around = [], []
    for line in sequence.splitlines():
        if not (match := re.match(r"^( *)\d+: (k\w+)", line)):
            continue
        indent, kind = len(match[1]), match[2]
        while around and around[-1][0] >= indent:
            around.pop()
        around.append((indent, kind))
        found.append(tuple(kind for _, kind in around))
    return found


def test_the_reader_sees_what_is_around():
    sequence = """
000: kWhile [source | sink]
condition:
    001: kCustomKernel [source | sink]
  body:
    000: kCommandBuffer [source | sink]
        002: kWhile [source | sink]
    003: kCollectivePermute [source | sink]
"""
    assert launched(sequence) == [
        ("kWhile",),
        ("kWhile", "kCustomKernel"),
        ("kWhile", "kCommandBuffer"),
        ("kWhile", "kCommandBuffer", "kWhile"),
        ("kWhile", "kCollectivePermute"),
    ]


@pytest.mark.skipif(not has_aot(), reason="needs the extra `aot`: pip install '.[aot]'")
def test_the_host_reads_no_condition_in_a_tick(tmp_path):
    dump = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    flags = f"{flags_text(PRESETS['command_buffers'])} {dump}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", SCRIPT]  # XLA reads its flags once in a process
    subprocess.run(command, env=environment, check=True, cwd=ROOT)
    (path,) = tmp_path.glob("*jit_loss_and_grads.thunk_sequence_after_thunk_passes.txt")
    thunks = launched(path.read_text())
    loops = [around for *around, kind in thunks if kind == "kWhile"]
    assert len(loops) > TICKS * OPERATIONS * CHUNKS
    by_host = [around for around in loops if "kCommandBuffer" not in around]
    assert by_host == [[]]  # the scan over ticks, whose trips are known
    assert thunks.count(("kWhile", "kCommandBuffer")) == TICKS
    permutes = [around for *around, kind in thunks if kind == "kCollectivePermute"]
    assert permutes and all("kCommandBuffer" not in around for around in permutes)
