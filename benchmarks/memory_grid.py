"""Predicted bytes of a step against compiled ones: 30 configurations on virtual CPU devices.

    python -m benchmarks.memory_grid                              about 20 minutes on two cores
    python -m benchmarks.memory_grid --out benchmarks/results/memory_grid.json
    python -m benchmarks.memory_grid --only 0 7 29                      some of them, by number
    python -m benchmarks.memory_grid --predict --out benchmarks/results/memory_grid.json   seconds

Small models among them, where scratch is most of the memory. Compiled, never run; compiled bytes
are those of `benchmarks.memory`: `temp_size_in_bytes + output_size_in_bytes`. With `--out` rows
are added to those already in the file; `--predict` compiles nothing and predicts anew what the file
holds the compiled bytes of.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import cases, report
from benchmarks.common.cases import Size, use_cpu_devices
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import PipelineStep, make_mesh
from seq1f1b_jax.pipeline.memory import predict_memory

MB = 1e6


class Case(NamedTuple):
    """One configuration: a model, its sequences and how it is spread."""

    family: str
    num_layers: int
    model_dim: int
    seq_len: int
    num_ranks: int
    num_chunks: int
    recompute: str
    num_microbatches: int
    schedule: str = "seq1f1b"
    num_tensor: int = 1
    sequence_parallel: bool = False
    vocab_size: int = 256


GRID = (
    Case("gpt", 2, 128, 1024, 1, 1, "none", 2),
    Case("gpt", 4, 128, 1024, 2, 4, "none", 4),
    Case("llama", 4, 128, 1024, 2, 2, "selective", 4),
    Case("gpt", 4, 256, 4096, 2, 4, "none", 4),
    Case("llama", 4, 256, 4096, 2, 4, "full", 4),
    Case("gpt", 4, 256, 4096, 4, 1, "selective", 8),
    Case("llama", 4, 256, 4096, 4, 8, "matmuls", 8),
    Case("llama", 2, 512, 2048, 2, 4, "none", 4),
    Case("gpt", 2, 512, 8192, 2, 8, "full", 4),
    Case("gpt", 2, 512, 2048, 1, 4, "matmuls", 2),
    Case("llama", 4, 256, 8192, 4, 2, "selective", 4),
    Case("gpt", 4, 128, 8192, 2, 2, "full", 4),
    Case("llama", 4, 128, 4096, 1, 2, "selective", 2),
    Case("gpt", 8, 256, 2048, 4, 4, "matmuls", 8),
    Case("llama", 8, 256, 2048, 4, 1, "full", 8),
    Case("gpt", 8, 128, 4096, 4, 8, "none", 8),
    Case("llama", 8, 512, 4096, 4, 2, "none", 4),
    Case("gpt", 6, 256, 1024, 3, 2, "selective", 6),
    Case("llama", 8, 128, 2048, 2, 2, "matmuls", 4),
    Case("gpt", 8, 256, 2048, 2, 2, "none", 4, "seq1f1b-i"),
    Case("llama", 8, 128, 4096, 4, 2, "selective", 8, "seq1f1b-i"),
    Case("gpt", 4, 256, 2048, 4, 2, "none", 8, "seq-zb-h1"),
    Case("llama", 4, 128, 4096, 2, 2, "selective", 4, "seq-zb-h1"),
    Case("llama", 4, 256, 2048, 4, 2, "full", 8, "seq1f1b-lockstep"),
    Case("gpt", 8, 128, 4096, 4, 2, "selective", 8, "seq1f1b-lockstep"),
    Case("gpt", 4, 256, 2048, 2, 2, "none", 4, num_tensor=2),
    Case("llama", 4, 512, 2048, 2, 2, "selective", 4, num_tensor=2),
    Case("llama", 4, 256, 4096, 2, 2, "full", 4, num_tensor=2, sequence_parallel=True),
    Case("gpt", 4, 256, 2048, 2, 1, "full", 4, num_tensor=2, sequence_parallel=True),
    Case("llama", 4, 128, 2048, 2, 2, "selective", 4, vocab_size=4096),
)


def main(arguments=None) -> int:
    """Compile, print the table and the line of JSON; the exit status is 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory_grid", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", type=int, choices=range(len(GRID)), metavar="N")
    parser.add_argument("--predict", action="store_true", help="take compiled bytes from --out")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/memory_grid.json")
    options = parser.parse_args(arguments)
    rows = _known(options.out)
    numbers = range(len(GRID)) if options.only is None else options.only
    missing = [number for number in numbers if number not in rows]
    if options.predict and missing:
        parser.error(f"--predict compiles nothing, and --out has no rows {missing}; compile them")
    use_cpu_devices(max(case.num_ranks * case.num_tensor for case in GRID))
    for number in numbers:
        compiled = rows[number]["compiled"] * MB if options.predict else None
        rows[number] = {"case": number, **measure(GRID[number], compiled)}
        report.show("bytes per device (MB)", [rows[number]])
    table = [rows[number] for number in sorted(rows)]
    report.show("bytes per device (MB)", table)
    ratios = [row["ratio"] for row in table]
    report.finish(
        {
            "max_memory_error": max(abs(1 / ratio - 1) for ratio in ratios),
            "max_ratio_to_prediction": max(ratios),
            "min_ratio_to_prediction": min(ratios),
            "rows": table,
        },
        path=options.out,
    )
    return 0


def _known(path: str | None) -> dict[int, dict[str, Any]]:
    """Rows already in the file, by number."""
    if path is None or not Path(path).exists():
        return {}
    return {row["case"]: row for row in json.loads(Path(path).read_text(encoding="utf-8"))["rows"]}


def measure(case: Case, compiled: float | None = None) -> dict[str, Any]:
    """One configuration: predicted and compiled bytes (`None`: found out here), and their ratio."""
    step = step_of(case)
    predicted = predict_memory(step.program(1)).total
    if compiled is None:
        memory = cases.lower_step(step).compile().memory_analysis()
        compiled = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return {
        "model": case.family, "layers": case.num_layers, "d": case.model_dim, "T": case.seq_len,
        "P": case.num_ranks, "C": case.num_chunks, "M": case.num_microbatches,
        "recompute": case.recompute, "schedule": case.schedule, "tensor": case.num_tensor,
        "V": case.vocab_size,
        "predicted": predicted / MB, "compiled": compiled / MB, "ratio": compiled / predicted,
    }


def step_of(case: Case) -> PipelineStep:
    """The step of a configuration: heads of 32, even chunks."""
    stage = build_stage(
        case.family, num_layers=case.num_layers, model_dim=case.model_dim,
        num_heads=case.model_dim // 32, vocab_size=case.vocab_size, max_positions=case.seq_len,
    )
    size = Size(
        case.num_ranks, case.num_microbatches, case.num_chunks, case.seq_len,
        recompute=case.recompute, schedule=case.schedule,
        sequence_parallel=case.sequence_parallel,
    )
    mesh = make_mesh(case.num_ranks, num_tensor=case.num_tensor)
    return cases.pipelined(stage, size, mesh=mesh)


if __name__ == "__main__":
    raise SystemExit(main())
