"""The fastest configurations that fit: branch and bound, which misses none."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from seq1f1b_jax.config import Config
from seq1f1b_jax.plan.draft import draft_of
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.hardware import Hardware
from seq1f1b_jax.plan.search.bounds import least_bytes, least_seconds
from seq1f1b_jax.plan.search.space import Core, Space

EVERY = 100
"""Configurations between two reports of the progress."""


class Found(NamedTuple):
    """A configuration that fits; found ones are ordered as their fields are.

    Attributes:
      seconds: of a step.
      host: bytes of host memory.
      held: bytes of a device.
      estimate: all about it.
    """

    seconds: float
    host: int
    held: int
    estimate: Estimate

    @property
    def rank(self) -> tuple[float, int, int]:
        """What the search orders by."""
        return self.seconds, self.host, self.held


@dataclass
class Result:
    """What a search found.

    Attributes:
      best: the best of each core, fastest first.
      num_configurations: compared.
      num_too_large: of them, those that cannot fit.
      num_simulated: those whose step was simulated; the bounds dismissed the others.
      smallest: the least bytes of a device of any of them, for when none fits.
    """

    best: list[Found] = field(default_factory=list)
    num_configurations: int = 0
    num_too_large: int = 0
    num_simulated: int = 0
    smallest: int | None = None


class _Entry(NamedTuple):
    seconds: float
    host: int
    order: int
    core: Core
    estimate: Estimate


def search(
    config: Config,
    hardware: Hardware,
    *,
    num_devices: int,
    space: Space | None = None,
    top: int = 5,
    progress: Callable[[int, str], None] = lambda count, stage: None,
) -> Result:
    """Find the fastest configurations of a model on so many devices.

    First every configuration gets a bound of its time and of its memory. Then they are simulated
    in the order of the former, until the next bound is slower than the `top`-th best core.

    Args:
      config: the model, the data, and how many sequences a step has.
      hardware: the device.
      num_devices: how many there are.
      space: what is tried.
      top: cores to find.
      progress: called with a number of configurations, and what was done with them.

    Returns:
      Of configurations that are equally fast, the one with least host memory, then least memory of
      a device. Layers are spread evenly while searching; those found are tried with balanced layers
      too.
    """
    result, entries, space = Result(), [], space or Space()
    for core, estimate in candidates(config, hardware, num_devices, space):
        result.num_configurations += 1
        if result.num_configurations % EVERY == 0:
            progress(result.num_configurations, "bounded")
        held, host = least_bytes(estimate.draft)
        result.smallest = min(held, result.smallest or held)
        if not _fits(estimate, held, host):
            result.num_too_large += 1
            continue
        seconds = least_seconds(estimate.draft, estimate.work) + estimate.once
        entries.append(_Entry(seconds, host, len(entries), core, estimate))
    best: dict[Core, Found] = {}
    for entry in sorted(entries):
        limit = _limit(best, top)
        own = best.get(entry.core)
        if entry.seconds > limit:
            break
        if own is not None and entry.seconds > own.seconds:
            continue
        result.num_simulated += 1
        progress(result.num_simulated, "simulated")
        if (found := evaluate(entry.estimate, limit)) and (not own or found.rank < own.rank):
            best[entry.core] = found
    shown = heapq.nsmallest(top, best.values(), key=lambda found: found.rank)
    if "balanced" in space.layers:
        shown = sorted(map(_with_balanced_layers, shown), key=lambda found: found.rank)
    result.best = shown
    return result


def _with_balanced_layers(found: Found) -> Found:
    """The same with balanced layers, if that is better."""
    draft = found.estimate.draft
    mesh = replace(draft.config.mesh, layers_per_stage="balanced")
    other = replace(draft, config=replace(draft.config, mesh=mesh))
    if draft.num_ranks == 1 or other.layers_per_stage == draft.layers_per_stage:
        return found
    tried = evaluate(Estimate(other, found.estimate.hardware))
    return tried if tried and tried.rank < found.rank else found


def evaluate(estimate: Estimate, limit: float = float("inf")) -> Found | None:
    """The exact figures of a configuration; `None` if it is slower than a limit, or does not fit.

    The simulation comes first: it takes less time than to lower the plan.
    """
    seconds = estimate.seconds
    if seconds > limit or not estimate.fits:
        return None
    return Found(seconds, estimate.memory.host, estimate.held, estimate)


def candidates(
    config: Config, hardware: Hardware, num_devices: int, space: Space
) -> Iterator[tuple[Core, Estimate]]:
    """All configurations of a space."""
    draft = draft_of(config, hardware)
    for core in space.cores(config, draft.shape, hardware, num_devices):
        for variant in space.variants(config, core, hardware):
            yield core, Estimate(replace(draft, config=variant), hardware)


def _fits(estimate: Estimate, held: int, host: int) -> bool:
    return held <= estimate.hardware.usable and estimate.of_host(host) <= (
        estimate.hardware.host_memory
    )


def _limit(best: dict[Core, Found], top: int) -> float:
    """Seconds of the `top`-th best core; infinite before there are as many."""
    fastest = heapq.nsmallest(top, (found.seconds for found in best.values()))
    return fastest[-1] if len(fastest) == top else float("inf")
