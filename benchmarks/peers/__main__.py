"""Our step against what a user would have got elsewhere: same work, same machine, one run.

    pip install -e '.[peers]'
    python -m benchmarks.peers              half an hour on two idle cores
    python -m benchmarks.peers --quick      one small size
    python -m benchmarks.peers --no-torch   JAX peers only

JAX peers, with our model functions and our attention (`xla_blockwise`): GPipe by autodiff through a
scan of `ppermute`, stages stacked by `vmap` and shifted, FSDP; with and without remat. torch's
pipelines: GPipe, 1F1B and interleaved, with `scaled_dot_product_attention`. All start from the same
weights and batch, and their losses are equal within 1e-5, or the run fails.

- On virtual devices (P=4, M=4, C=4): CPU seconds of a step, and what the compiler allocates for it,
  temporaries and outputs of a device.
- In processes (P=2, M=2, C=4), one core each, over Gloo: wall time, CPU seconds of all processes,
  and the peak of resident memory in a step above what was held before it, largest over the
  processes, beside what the compiler allocates. Because torch's CPU kernels are not XLA's, also
  efficiency: the CPU seconds in which one process does the whole step alone, by plain autodiff of
  the same framework and in both processes at once, over P times the wall time of the step.

All programs run in turn, and ratios are of medians within one run.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import report
from benchmarks.common.processes import ProcessError, run_processes
from benchmarks.peers import convert, ratios
from benchmarks.peers.work import Work

LENGTHS, QUICK = (512, 2048), (256,)
CHUNKS = 4
MAX_LOSS_ERROR = 1e-5
PATIENCE = 7200


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small size, fewer rounds")
    parser.add_argument("--no-torch", action="store_true", help="without torch's pipelines")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each program")
    parser.add_argument("--lengths", type=int, nargs="+", choices=LENGTHS, help="default: all")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    with_torch = not options.no_torch
    if with_torch and not _has_torch():
        print(
            "error: needs torch; install the extra: pip install -e '.[peers]', or leave it out: "
            "--no-torch", file=sys.stderr,
        )  # fmt: skip
        return 2
    lengths = QUICK if options.quick else options.lengths or LENGTHS
    rounds = 2 if options.quick else options.rounds
    found = {}
    for seq_len in lengths:
        virtual = Work(4, 4, CHUNKS, seq_len, model_dim=256, num_layers=4)
        pair = Work(2, 2, CHUNKS, seq_len, model_dim=512, num_layers=4)
        found[seq_len] = {
            "virtual": measure_virtual(virtual, rounds=rounds),
            "processes": measure_processes(pair, rounds=rounds, with_torch=with_torch),
        }
    values = ratios.summary(found)
    report.show("ratios", [{"key": key, "ratio": value} for key, value in values.items()])
    report.finish({**values, "lengths": found}, path=options.out)
    return 0


def measure_virtual(work: Work, *, rounds: int) -> dict[str, dict[str, Any]]:
    """Rows by program: all JAX programs on the virtual devices of one process."""
    with tempfile.TemporaryDirectory() as folder:
        (rank,) = _run("jax_programs", work, Path(folder), rounds=rounds, num_processes=1)
    rows = {
        name: {
            "cpu_seconds": median(row["cpu_seconds"]),
            "spread": report.median_and_spread(row["cpu_seconds"])[1],
            "memory_mb": row["compiled_mb"],
            "loss": row["loss"],
        }
        for name, row in rank.items()
    }
    return _checked(f"P={work.num_ranks} virtual devices", work, rows)


def measure_processes(
    work: Work, *, rounds: int, with_torch: bool
) -> dict[str, dict[str, Any]]:
    """Rows by program: one process per rank, JAX's and torch's in turn."""
    modules = ["jax_programs", *["torch_pipeline"] * with_torch]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(modules)) as pool:
        running = [
            pool.submit(
                _run, module, work, Path(folder), rounds=rounds, num_processes=work.num_ranks,
                group=group, num_groups=len(modules),
            )
            for group, module in enumerate(modules)
        ]
        groups = [group.result() for group in running]
    rows = {}
    for ranks in groups:
        own = next(name for name in ranks[0] if name.endswith("alone"))
        own_seconds = median(s for rank in ranks for s in rank[own]["cpu_seconds"])
        for name in ranks[0]:
            found = _step([rank[name] for rank in ranks])
            if name != own:
                found["efficiency"] = own_seconds / (work.num_ranks * found["step_seconds"])
            rows[name] = found
    return _checked(f"P={work.num_ranks} processes", work, rows)


def _step(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row from what the processes of one group returned for a program."""
    turns = list(zip(*(rank["spans"] for rank in ranks), strict=True))
    seconds = [max(end for _, end in turn) - min(start for start, _ in turn) for turn in turns]
    step, spread = report.median_and_spread(seconds)
    cpu = [sum(turn) for turn in zip(*(rank["cpu_seconds"] for rank in ranks), strict=True)]
    found = {
        "step_seconds": step, "spread": spread, "cpu_seconds": median(cpu),
        "memory_mb": max(rank["memory_mb"] for rank in ranks),
        "loss": next(rank["loss"] for rank in ranks if rank["loss"] == rank["loss"]),
    }
    return found | {key: ranks[0][key] for key in ("compiled_mb",) if key in ranks[0]}


def _checked(title: str, work: Work, rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Print the rows; all losses must be equal."""
    shown = [{"program": name, **row} for name, row in rows.items()]
    sizes = f"M={work.num_microbatches}, T={work.seq_len}, C={work.num_chunks}, d={work.model_dim}"
    report.show(f"{title}, {sizes}, {work.num_layers} layers", shown)
    wanted = next(iter(rows.values()))["loss"]
    wrong = {n: r["loss"] for n, r in rows.items() if not _close(r["loss"], wanted)}
    if wrong:
        raise SystemExit(f"losses differ by more than {MAX_LOSS_ERROR:g} from {wanted}: {wrong}")
    return rows


def _close(loss: float, wanted: float) -> bool:
    return abs(loss - wanted) <= MAX_LOSS_ERROR * abs(wanted)


def _run(
    module: str, work: Work, folder: Path, *, rounds: int, num_processes: int, group: int = 0,
    num_groups: int = 1,
) -> list[dict[str, Any]]:
    """Run a group of processes to the end of its rounds."""
    turn = folder / "turn"
    if not turn.exists():
        turn.write_text("0")
    arguments: dict[str, Any] = {
        "turns": {"path": str(turn), "group": group, "num_groups": num_groups}, "rounds": rounds,
    }
    if module == "torch_pipeline":
        weights = folder / "weights.npz"
        convert.write(weights, work.params(), work.batch())
        arguments |= {"weights": str(weights), "sizes": convert.sizes_of(work.stage())}
    else:
        arguments["work"] = asdict(work)
    try:
        return run_processes(
            f"benchmarks.peers.{module}:worker", arguments, num_processes=num_processes,
            num_devices=work.num_ranks // num_processes, timeout_seconds=PATIENCE,
            framework="torch" if module == "torch_pipeline" else "jax",
        )
    except ProcessError:
        turn.unlink(missing_ok=True)  # the other group waits for this one
        raise


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


if __name__ == "__main__":
    sys.exit(main())
