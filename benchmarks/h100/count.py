"""The figures of a compiled step: a row for each action of a tick, and the sums for a layer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from benchmarks.h100.actions import Action, Ticks, find_ticks, is_of_role
from benchmarks.h100.checks import rounded_weight_gradients, score_bytes
from benchmarks.h100.hlo import Program, read_program
from benchmarks.h100.kernels import Kernel, launches, unknown_loops
from benchmarks.h100.overlap import collectives, host_copies
from benchmarks.h100.roofline import Work, floor_seconds, work
from benchmarks.h100.settings import Compiled
from benchmarks.h100.thunks import Thunks, host_reads, read_thunks
from seq1f1b_jax.schedule import StageCost

GB = 1e9
LAYERS = 2
"""Bytes are given for so many layers, whatever the stage has."""


@dataclass(frozen=True)
class Sizes:
    """What the program was compiled for.

    Attributes:
      cost: sizes of the model.
      lengths: tokens of each chunk.
      layers: of a stage.
      num_tensor: devices that share a layer.
    """

    cost: StageCost
    lengths: tuple[int, ...]
    layers: int
    num_tensor: int = 1

    @property
    def num_heads(self) -> int:
        """Key/value heads of a device; the queries of each are one product."""
        return max(1, self.cost.num_kv_heads // self.num_tensor)

    @classmethod
    def of(cls, step) -> "Sizes":
        """Those of a pipelined step."""
        layers = step.layout.layers_per_stage
        cost = StageCost.of(step.stage, layers)
        return cls(cost, tuple(step.table.chunk_lengths), max(layers), step.layout.num_tensor)


@dataclass(frozen=True)
class Counted:
    """Figures of one action.

    Attributes:
      action: which.
      launches: its kernels, without those that only the first or the last stage runs.
      work: their sum.
      roles: the work that only one of those stages does.
      num_loops: loops of unknown trips in it.
      scores: bytes of attention scores, part of the traffic of its kernels.
      rounded: weight gradients that a matmul rounds to fewer than 32 bits.
    """

    action: Action
    launches: tuple[tuple[int, Kernel], ...]
    work: Work
    roles: Work
    num_loops: int
    scores: int
    rounded: int


@dataclass(frozen=True)
class Report:
    """All figures of one program.

    Attributes:
      program: the program.
      rows: one for each action.
      values: sums, by their names in the last line.
      counted: each action.
    """

    program: Program
    rows: list[dict[str, Any]]
    values: dict[str, Any]
    counted: tuple[Counted, ...]

    def launches(self) -> Iterator[tuple[str, int, Kernel]]:
        """Name of the action, times and kernel, of all of them."""
        for one in self.counted:
            yield from ((one.action.name, times, kernel) for times, kernel in one.launches)


def count(compiled: Compiled, sizes: Sizes) -> Report:
    """Count a compiled step.

    Args:
      compiled: its texts.
      sizes: what it was compiled for.
    """
    program = read_program(compiled.text)
    thunks = read_thunks(compiled.thunks, compiled.names) if compiled.thunks else None
    ticks = find_ticks(program, num_chunks=len(sizes.lengths))
    counted = tuple(_counted(program, action, sizes) for action in ticks.actions)
    launched = [one.work.kernels for one in counted]
    values = {
        **_layer(counted, sizes),
        "dw_rounded_to_bf16": sum(one.rounded for one in counted),
        "kernels_per_action": sum(launched) / len(launched),
        "kernels_per_action_most": max(launched),
        **_host(program, thunks, ticks),
        **_collectives(program, ticks),
        **_offload(program, ticks),
        "held_gb": compiled.held / GB,
        "host_gb": compiled.host / GB,
        "layers": sizes.layers,
        "compile_seconds": compiled.seconds,
    }
    rows = [_row(program, thunks, one, sizes) for one in counted]
    return Report(program, rows, values, counted)


def _counted(program: Program, action: Action, sizes: Sizes) -> Counted:
    found = list(launches(program, action.body))
    inside = [loop for _, loop in unknown_loops(program, action.body)]
    own = tuple(one for one in found if not is_of_role(program, one[1]))
    roles = [one for one in found if is_of_role(program, one[1])]
    roles += chain.from_iterable(launches(program, loop.body) for loop in inside)
    num_tokens = sizes.cost.num_sequences * sizes.lengths[action.chunk]
    has_gradients = action.operation != "F"
    return Counted(
        action, own, work(own), work(roles), len(inside),
        scores=score_bytes(own, num_heads=sizes.num_heads, head_dim=sizes.cost.head_dim),
        rounded=rounded_weight_gradients(own, num_tokens=num_tokens) if has_gradients else 0,
    )  # fmt: skip


def _row(program: Program, thunks: Thunks | None, one: Counted, sizes: Sizes) -> dict[str, Any]:
    loop = one.action.loop.name
    row = {
        "action": one.action.name,
        "tokens": sizes.lengths[one.action.chunk],
        "kernels": one.work.kernels,
        "TFLOP": one.work.matmul_flops / 1e12,
        "in attention": one.work.attention_flops / 1e12,
        "other GB": one.work.other_bytes / GB,
        "score GB": one.scores / GB,
        "ms matmul": 1e3 * one.work.matmul_seconds,
        "attention": 1e3 * one.work.attention_seconds,
        "other": 1e3 * one.work.other_seconds,
        "roles": 1e3 * one.roles.seconds,
        "dw rounded": one.rounded,
        "unknown loops": one.num_loops,
        "exposed": sum(found.is_exposed for found in collectives(program, one.action.body)),
    }
    if thunks is not None:
        row["command buffers"] = thunks.num_buffers(loop)
        row["captured"] = "yes" if thunks.is_captured(loop) else "no"
    return row


def _layer(counted: Iterable[Counted], sizes: Sizes) -> dict[str, float]:
    """Of one layer and sequence: all chunks, forward and backward."""
    counted = list(counted)
    total = sum((one.work for one in counted), Work())
    floor = floor_seconds(sizes.cost, sizes.lengths, num_tensor=sizes.num_tensor)
    layer = total.seconds / sizes.layers
    scores = sum(one.scores for one in counted)
    return {
        "layer_over_floor": layer / sum(floor),
        "layer_ms": 1e3 * layer,
        "matmul_ms": 1e3 * total.matmul_seconds / sizes.layers,
        "attention_ms": 1e3 * total.attention_seconds / sizes.layers,
        "other_ms": 1e3 * total.other_seconds / sizes.layers,
        "floor_matmul_ms": 1e3 * floor[0],
        "floor_attention_ms": 1e3 * floor[1],
        "other_gb": LAYERS * total.other_bytes / sizes.layers / GB,
        "score_bytes_gb": LAYERS * scores / sizes.layers / GB,
    }


def _host(program: Program, thunks: Thunks | None, ticks: Ticks) -> dict[str, Any]:
    unknown = sum(times for times, _ in unknown_loops(program, ticks.body))
    values: dict[str, Any] = {"loops_with_unknown_trips": unknown / ticks.num_ticks}
    if thunks is not None:
        idle, busy = host_reads(program, thunks, ticks)
        values |= {"host_reads_per_tick": busy, "host_reads_per_idle_tick": idle}
        inside = sum(ticks.loop in around for around in thunks.buffers)
        values["command_buffers_per_tick"] = inside / ticks.num_ticks
    return values


def _offload(program: Program, ticks: Ticks) -> dict[str, Any]:
    """Copies from and to the host in the text of one tick."""
    found = list(host_copies(program, ticks.body))
    exposed = [copy for copy in found if copy.is_exposed]
    return {
        "offload_copies": len(found) / ticks.num_ticks,
        "offload_copies_exposed": len(exposed) / ticks.num_ticks,
    }


def _collectives(program: Program, ticks: Ticks) -> dict[str, Any]:
    """In the text of one tick, without those of the first and the last stage."""
    own = list(collectives(program, ticks.body))
    for action in ticks.actions:
        own += ticks.num_ticks * list(collectives(program, action.body))
    exposed = [found for found in own if found.is_exposed]
    return {
        "collectives": len(own) / ticks.num_ticks,
        "exposed_collectives": len(exposed) / ticks.num_ticks,
        "exposed_collectives_mb": sum(found.nbytes for found in exposed) / ticks.num_ticks / 1e6,
    }
