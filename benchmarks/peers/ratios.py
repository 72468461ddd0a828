"""The figures of the last line, each the worst over the lengths of sequences."""

from collections.abc import Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]

OURS = "seq1f1b"
OURS_REMAT = "seq1f1b, full"
PIPELINES = ("GPipe", "vmap and shift")
"""As they are written in documentation."""
SKIPPING = "GPipe, idle skipped"
REMAT = ", remat"


def summary(found: Mapping[int, Mapping[str, Rows]]) -> dict[str, float]:
    """Ratios of our step to the peers.

    Args:
      found: by length, rows on `virtual` devices and in `processes`.

    Returns:
      `time` is CPU seconds on virtual devices against JAX peers, and wall time against torch;
      `wall` is wall time in processes, `cpu` the CPU seconds of all of them. Without torch its
      keys are missing.
    """
    virtual = [rows["virtual"] for rows in found.values()]
    pairs = [rows["processes"] for rows in found.values()]
    values = {
        "time_over_best_jax_pipeline": max(map(_time_over_pipelines, virtual)),
        "memory_over_best_jax_pipeline": max(map(_memory_over_pipelines, virtual)),
        "time_over_jax_pipeline_skipping_idle": max(
            _over(rows, "cpu_seconds", _both(SKIPPING)) for rows in virtual
        ),
        "memory_over_jax_pipeline_skipping_idle": max(
            _memory_over(rows, (SKIPPING,)) for rows in virtual
        ),
        "time_over_fsdp": max(_over(rows, "cpu_seconds", _both("FSDP")) for rows in virtual),
        "memory_over_fsdp": max(_over(rows, "memory_mb", ("FSDP",)) for rows in virtual),
        "memory_over_fsdp_remat": max(
            rows[OURS_REMAT]["memory_mb"] / rows["FSDP" + REMAT]["memory_mb"] for rows in virtual
        ),
        "wall_over_best_jax_pipeline": max(
            _over(rows, "step_seconds", (*PIPELINES, SKIPPING)) for rows in pairs
        ),
        "wall_over_fsdp": max(_over(rows, "step_seconds", ("FSDP",)) for rows in pairs),
    }
    if not any(name.startswith("torch") for name in pairs[0]):
        return values
    return values | {
        "memory_over_torch": max(_over(rows, "memory_mb", _torch(rows)) for rows in pairs),
        "efficiency_over_best_torch": min(map(_efficiency_over_torch, pairs)),
        "cpu_over_best_torch": max(_over(rows, "cpu_seconds", _torch(rows)) for rows in pairs),
        "time_over_best_torch": max(_over(rows, "step_seconds", _torch(rows)) for rows in pairs),
    }


def _time_over_pipelines(rows: Rows) -> float:
    return _over(rows, "cpu_seconds", _both(*PIPELINES))


def _memory_over_pipelines(rows: Rows) -> float:
    return _memory_over(rows, PIPELINES)


def _memory_over(rows: Rows, peers: tuple[str, ...]) -> float:
    """The worse of: both keep all, both recompute layers."""
    remat = min(rows[name + REMAT]["memory_mb"] for name in peers)
    return max(_over(rows, "memory_mb", peers), rows[OURS_REMAT]["memory_mb"] / remat)


def _efficiency_over_torch(rows: Rows) -> float:
    return rows[OURS]["efficiency"] / max(rows[name]["efficiency"] for name in _torch(rows))


def _over(rows: Rows, key: str, peers: tuple[str, ...]) -> float:
    """Our step over the least of the peers."""
    return rows[OURS][key] / min(rows[name][key] for name in peers)


def _both(*names: str) -> tuple[str, ...]:
    return (*names, *(name + REMAT for name in names))


def _torch(rows: Rows) -> tuple[str, ...]:
    return tuple(name for name in rows if name.startswith("torch") and name != "torch alone")


