"""Compiled bytes per device against the predicted sum, term by term.

    python -m benchmarks.memory             about 6 minutes on two cores (extra `aot` included)
    python -m benchmarks.memory --no-extra  the gpt with recompute `none` only

Programs are compiled, never run, for four virtual CPU devices and for four H100s that need not be
present. Compiled bytes are `temp_size_in_bytes + output_size_in_bytes` of
`compiled.memory_analysis()`: the accumulators, one of the predicted terms, are outputs of the
program, and XLA allocates them as such from the start. Ratios over C and M use temp bytes alone.
"""

import argparse
from fractions import Fraction
from typing import Any

import jax.numpy as jnp

from benchmarks.aot import h100_mesh, has_aot
from benchmarks.common import cases, report
from benchmarks.common.cases import Size, use_cpu_devices
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.memory import nbytes, predict_memory

RANKS, MICROBATCHES, LENGTH, WIDTH, LAYERS = 4, 8, 4096, 256, 8
CHUNKS = (1, 2, 4, 8)
EXTRA = (
    ("gpt", "selective", 1), ("gpt", "selective", 4), ("gpt", "full", 1), ("gpt", "full", 4),
    ("llama", "none", 1), ("llama", "none", 4), ("llama", "selective", 4), ("llama", "full", 4),
)
SCHEDULES = ("terapipe", "seq1f1b-lockstep", "seq1f1b-i", "seq-zb-h1")


def main(arguments=None) -> int:
    """Compile, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--no-extra", action="store_true", help="no other models, policies, H100")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=WIDTH, help="model_dim, a multiple of 32")
    options = parser.parse_args(arguments)
    use_cpu_devices(RANKS)
    shape = {"length": options.length, "width": options.width}
    values = measure(**shape, extra=() if options.no_extra else EXTRA)
    if has_aot() and not options.no_extra:
        values |= measure_h100(**shape)
    report.finish(values)
    return 0


def measure(*, length: int, width: int, extra) -> dict[str, Any]:
    """The CPU program over C, over M, and for the other models and policies."""
    sizes = [Size(RANKS, MICROBATCHES, c, length) for c in CHUNKS]
    over_c = [_row("gpt", size, width) for size in sizes]
    report.show("over C (MB per device)", over_c)
    ring = check_ring([ring_bytes("gpt", size, width) for size in sizes])
    report.show("ring bytes over those of C=1; (P+C-1)/(PC) exactly", ring)

    over_m = [_row("gpt", Size(RANKS, m, 4, length), width) for m in (4, 16)]
    report.show("over M (MB per device)", over_m)
    others = [
        _row(family, Size(RANKS, MICROBATCHES, c, length, recompute=policy), width)
        for family, policy, c in extra
    ]
    if others:
        report.show("other models and policies (MB per device)", others)
        others += [
            _row(family, Size(RANKS, MICROBATCHES, 4, length, schedule=schedule), width)
            for schedule in SCHEDULES
            for family in ("gpt", "llama")
        ]
        report.show("other schedules (MB per device)", others[len(extra) :])
    rows = over_c + over_m + others
    temp = {row["C"]: row["temp"] for row in over_c}
    return {
        "max_ratio_to_prediction": max(row["ratio"] for row in rows),
        "min_ratio_to_prediction": min(row["ratio"] for row in rows),
        "max_temp_ratio_to_prediction": max(row["temp_ratio"] for row in rows),
        "c4_over_c1": temp[4] / temp[1],
        "m16_over_m4": over_m[1]["temp"] / over_m[0]["temp"],
        "ring_proportions": {row["C"]: row["measured"] for row in ring},
    }


def measure_h100(*, length: int, width: int) -> dict[str, Any]:
    """The same for the H100 program: bfloat16, compiled without a GPU and without autotuning."""
    rows = [
        _row(
            family, Size(RANKS, MICROBATCHES, c, length, compute_dtype=jnp.bfloat16), width,
            mesh=h100_mesh((RANKS,), ("pipe",)),
        )
        for family, c in (("gpt", 1), ("gpt", 4), ("llama", 4))
    ]
    report.show("compiled for H100, bfloat16 (MB per device)", rows)
    temp = {row["C"]: row["temp"] for row in rows if row["model"] == "gpt"}
    return {
        "h100_max_ratio_to_prediction": max(row["ratio"] for row in rows),
        "h100_min_ratio_to_prediction": min(row["ratio"] for row in rows),
        "h100_c4_over_c1": temp[4] / temp[1],
    }


def ring_bytes(family: str, size: Size, width: int) -> int:
    """Bytes of the ring's buffers, as the scan carries them."""
    step = cases.pipelined(make_stage(family, size, width), size)
    return nbytes(step.program(1).ring_shapes())


def check_ring(ring: list[int]) -> list[dict[str, Any]]:
    """The ring over that of C=1, which must be (P+C-1)/(PC).

    A rank holds at most P+C-1 units, of one C-th of a sequence each, where C=1 holds P sequences.
    """
    rows = []
    for num_chunks, bytes_now in zip(CHUNKS, ring, strict=True):
        wanted = Fraction(RANKS + num_chunks - 1, RANKS * num_chunks)
        found = Fraction(bytes_now, ring[0])
        if found != wanted:
            raise SystemExit(f"ring at C={num_chunks} is {found} of C=1's, not {wanted}")
        rows.append({"C": num_chunks, "measured": str(found), "formula": str(wanted)})
    return rows


def make_stage(family: str, size: Size, width: int):
    """Eight layers, heads of 32, bytes as vocabulary."""
    return build_stage(
        family, num_layers=LAYERS, model_dim=width, num_heads=width // 32, vocab_size=256,
        max_positions=size.seq_len,
    )


def _row(family: str, size: Size, width: int, *, mesh=None) -> dict[str, Any]:
    """One program: its terms, their sum and what the compiler says, MB."""
    step = cases.pipelined(make_stage(family, size, width), size, mesh=mesh)
    predicted = predict_memory(step.program(1))
    memory = cases.lower_step(step).compile().memory_analysis()
    temp, output = memory.temp_size_in_bytes, memory.output_size_in_bytes
    return {
        "model": family, "schedule": size.schedule, "recompute": size.recompute,
        "C": size.num_chunks, "M": size.num_microbatches,
        **{name: value / 1e6 for name, value in predicted.terms().items()},
        "predicted": predicted.total / 1e6, "temp": temp / 1e6, "output": output / 1e6,
        "ratio": (temp + output) / predicted.total, "temp_ratio": temp / predicted.total,
    }


if __name__ == "__main__":
    raise SystemExit(main())
