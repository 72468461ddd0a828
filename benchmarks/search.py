"""How long the planner's search takes, and what it finds at the published shapes.

    python -m benchmarks.search

First the seconds for `--count` configurations of the largest space. Then the paper's 7b at 131,072
tokens on 32 GPUs of 80 GB and its 30b at 65,536 on 64, each three times: with whole sequences
(1F1B, interleaved or not) and with chunks as well, nothing recomputed and nothing on the host; and
with all that the search knows. `*_1f1b_fits` and `*_seq1f1b_fits` say whether any mesh fits.
"""

import argparse
import time
from dataclasses import replace
from itertools import islice
from typing import Any

from benchmarks.common import report
from seq1f1b_jax.config import Config, DataConfig, MeshConfig, ModelConfig, ScheduleConfig
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import find_hardware
from seq1f1b_jax.plan.report import limit_of
from seq1f1b_jax.plan.search.bounds import least_bytes, least_seconds
from seq1f1b_jax.plan.search.find import Result, candidates, search
from seq1f1b_jax.plan.search.space import Space

SHAPES = {"7b_131072": ("7b", 131072, 32), "30b_65536": ("30b", 65536, 64)}
HARDWARE = "a100-80g"
KEPT = Space(recompute=("none",), offload=(0.0,))
"""Nothing is recomputed, nothing waits on the host: what the paper compares."""
SPACES = {"1f1b": replace(KEPT, chunks=(1,)), "seq1f1b": KEPT, "all": Space()}


def main(arguments=None) -> int:
    """Search, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=10_000, help="configurations to time")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    values: dict[str, Any] = {}
    rows = []
    for name, (preset, seq_len, num_devices) in SHAPES.items():
        config = _config(preset, seq_len)
        for kind, space in SPACES.items():
            began = time.perf_counter()
            result = search(
                config, find_hardware(HARDWARE), num_devices=num_devices, space=space, top=1
            )
            rows.append({"shape": name, "space": kind, **_row(result, began)})
            values[f"{name}_{kind}_fits"] = bool(result.best)
    report.show(f"the fastest that fits, {HARDWARE}", rows)
    seconds = [row["seconds"] for row in rows if row["space"] == "all"]
    counts = [row["configurations"] for row in rows if row["space"] == "all"]
    values["search_seconds"] = 10_000 * sum(seconds) / sum(counts)
    values["bound_seconds"] = _bound_seconds(options.count)
    report.finish({**values, "rows": rows}, path=options.out)
    return 0


def _config(preset: str, seq_len: int) -> Config:
    return fill_model(
        Config(
            model=ModelConfig(family="gpt", preset=preset), mesh=MeshConfig(pipe=1),
            schedule=ScheduleConfig(num_microbatches=16), data=DataConfig(seq_len=seq_len),
        )
    )


def _row(result: Result, began: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "configurations": result.num_configurations, "too large": result.num_too_large,
        "simulated": result.num_simulated, "seconds": round(time.perf_counter() - began, 2),
    }
    if result.best:
        found = result.best[0]
        config = found.estimate.draft.config
        mesh, schedule = config.mesh, config.schedule
        row |= {
            "mesh": f"{mesh.data} x {mesh.pipe} x {mesh.tensor}", "schedule": schedule.name,
            "C": schedule.num_chunks, "recompute": config.executor.recompute,
            "offload": config.executor.offload, "GB": round(found.held / 1e9, 2),
            "s a step": round(found.seconds, 2), "limited by": limit_of(found.estimate),
        }
    return row


def _bound_seconds(count: int) -> float:
    """Seconds for the bounds alone of so many configurations."""
    preset, seq_len, num_devices = SHAPES["30b_65536"]
    hardware = find_hardware(HARDWARE)
    began = time.perf_counter()
    space = candidates(_config(preset, seq_len), hardware, num_devices, Space())
    for _, estimate in islice(space, count):
        least_bytes(estimate.draft)
        least_seconds(estimate.draft, estimate.work)
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
