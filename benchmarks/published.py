"""The figures that the Seq1F1B paper's repository publishes, beside what the planner predicts.

    python -m benchmarks.published

Without a device and without JAX's compiler, in seconds. Their A100s ran another implementation, so
the planner is told its habits, each a switch: `--off HABIT` leaves one out and shows what it costs.

    kv_twice       every chunk saves its prefix of keys and values once more, joined, and gradients
                   by keys and values are held for whole sequences
    whole_logits   logits, their softmax and gradient of all chunks of a sequence wait at once
    gathered       where devices share tokens, scratch of a layer holds all of a chunk's tokens
    reserve        the allocator and its context
    blocking       an exchange waits for the device, and the host needs time to fill it again

One set of constants for all cells, printed, chosen once with the tables in sight. Ratios are what
a prediction can be held to: `max_ratio_error` of the throughput of Seq1F1B over 1F1B,
`max_memory_ratio_error` of the memory of every schedule over 1F1B; `oom_wrong` counts the cells of
memory whose OUT OF MEMORY is predicted wrongly.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.common import report
from seq1f1b_jax.config import (
    Config,
    DataConfig,
    ExecutorConfig,
    MeshConfig,
    ModelConfig,
    ScheduleConfig,
)
from seq1f1b_jax.plan.draft import Draft, draft_of
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import find_hardware
from seq1f1b_jax.plan.work import work_of
from seq1f1b_jax.schedule import Op, simulate

GB = 1e9
HABITS = ("kv_twice", "whole_logits", "gathered", "reserve", "blocking")
HARDWARE = "a100-80g"
ORDERS = {"1F1B": ("1f1b", 1), "1F1B-I": ("1f1b-i", 1), "Seq1F1B": ("seq1f1b", 4),
          "Seq1F1B-I": ("seq1f1b-i", 4)}  # fmt: skip
"""Schedule and chunks of each column."""
OOM = None


class Machine(NamedTuple):
    """A model on GPUs."""

    preset: str
    pipe: int
    tensor: int
    seq_len: int


MEMORY = {
    Machine("2.7b", 8, 1, 16384): (51.40, 70.95, 29.85, 29.70),
    Machine("2.7b", 8, 1, 24576): (74.30, OOM, 41.45, 41.90),
    Machine("2.7b", 8, 1, 32768): (OOM, OOM, 53.10, 54.45),
    Machine("7b", 4, 8, 32768): (28.00, 34.20, 18.90, 16.35),
    Machine("7b", 4, 8, 65536): (51.40, 62.90, 34.30, 28.45),
    Machine("7b", 4, 8, 131072): (OOM, OOM, 69.80, 57.55),
}
"""GB of the fullest GPU, reserved by the allocator, by the columns of `ORDERS`. How 32 GPUs are
split over `pipe` and `tensor` is not published for 7b; 4 x 8 is the likely way."""
THROUGHPUT = {
    (32768, 8): (99.67, 109.55, 110.62, 97.69), (32768, 16): (114.45, 116.46, 115.34, 95.55),
    (65536, 8): (107.49, 119.96, 124.62, 117.75), (65536, 16): (123.95, 128.70, 123.05, 117.98),
}  # fmt: skip
"""TFLOP/s per GPU of 7b on 32, by (tokens, microbatches)."""


@dataclass(frozen=True)
class Constants:
    """Of that implementation, bytes unless said otherwise.

    Attributes:
      parameter: bf16 weight, float32 gradient, and float32 weight and moments.
      activation: of a token and of the width, in one layer, without recomputation.
      key_value: of a key and a value.
      key_value_gradient: of their gradients.
      logit: bf16 and float32 logits, softmax and gradient.
      gathered: of a gathered token and of the width: scratch of one layer, 20 values in bf16.
      reserve: of the allocator and the context.
      limit: of a GPU.
      restart: seconds until the device is busy again after an exchange that waits for it.
    """

    parameter: float = 18
    activation: float = 34
    key_value: float = 4
    key_value_gradient: float = 8
    logit: float = 14
    gathered: float = 40
    reserve: float = 1.0e9
    limit: float = 79.0e9
    restart: float = 4e-3


def main(arguments=None) -> int:
    """Print both tables and the line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--off", nargs="+", choices=HABITS, default=[], help="habits to leave out")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    habits = [habit for habit in HABITS if habit not in options.off]
    constants, hardware = Constants(), find_hardware(HARDWARE)
    report.show("constants of their implementation", [vars(constants)])
    report.show(f"of {hardware.name}", [_shares(hardware)])
    memory, throughput = list(_memory_rows(constants, habits)), list(_speed_rows(constants, habits))
    report.show("GB of the fullest GPU: published, predicted, and both over 1F1B", memory)
    report.show("TFLOP/s per GPU, 7b on 32: published, predicted, and both over 1F1B", throughput)
    chunked = [row for row in throughput if row["schedule"] == "Seq1F1B"]
    values = {
        "max_ratio_error": max(_error(row) for row in chunked),
        "max_memory_ratio_error": max(_error(row) for row in memory if row["ratio"]),
        "max_memory_ratio_error_seq1f1b": max(
            _error(row) for row in memory if row["ratio"] and row["schedule"] == "Seq1F1B"
        ),
        "max_ratio_error_interleaved": max(
            _error(row) for row in throughput if row["schedule"].endswith("-I")
        ),
        "oom_wrong": sum(row["fits"] != row["published fits"] for row in memory),
        "cells": len(memory), "habits": habits, "constants": vars(constants),
        "hardware": _shares(hardware), "memory": memory, "throughput": throughput,
    }  # fmt: skip
    report.finish(values, path=options.out)
    return 0


def _error(row: dict[str, Any]) -> float:
    return abs(row["predicted ratio"] - row["ratio"])


def _shares(hardware) -> dict[str, Any]:
    names = (
        "matmul_flops", "matmul_share", "attention_forward", "attention_backward",
        "memory_bandwidth", "memory_share", "link", "network", "link_share",
    )
    return {name: str(getattr(hardware, name)) for name in names}


def _draft(machine: Machine, order: str, *, num_microbatches: int) -> Draft:
    name, num_chunks = ORDERS[order]
    config = Config(
        model=ModelConfig(family="gpt", preset=machine.preset),
        mesh=MeshConfig(
            pipe=machine.pipe, tensor=machine.tensor, sequence_parallel=machine.tensor > 1
        ),
        schedule=ScheduleConfig(
            name=name, num_microbatches=num_microbatches, num_chunks=num_chunks,
            stages_per_rank=2 if order.endswith("-I") else None,
        ),
        executor=ExecutorConfig(recompute="none"),
        data=DataConfig(seq_len=machine.seq_len),
    )
    return draft_of(fill_model(config), find_hardware(HARDWARE))


def _memory_rows(constants: Constants, habits: list[str]) -> Iterator[dict[str, Any]]:
    for machine, published in MEMORY.items():
        predicted = [
            fullest(_draft(machine, order, num_microbatches=16), constants, habits) / GB
            for order in ORDERS
        ]
        for order, theirs, ours in zip(ORDERS, published, predicted, strict=True):
            known = bool(theirs and published[0] and order != "1F1B")
            yield {
                "model": machine.preset, "tokens": machine.seq_len, "schedule": order,
                "published": theirs or "OOM", "predicted": round(ours, 2),
                "published fits": theirs is not OOM, "fits": ours * GB <= constants.limit,
                "ratio": theirs / published[0] if known else None,
                "predicted ratio": ours / predicted[0] if known else None,
            }  # fmt: skip


def fullest(draft: Draft, constants: Constants, habits: list[str]) -> float:
    """Bytes of the fullest GPU under that implementation."""
    shape, plan, lengths = draft.shape, draft.plan, draft.lengths
    tensor, dim, layers = draft.num_tensor, draft.shape.model_dim, draft.max_layers
    width, last = dim / tensor, plan.num_stages - 1
    params = draft.stages_per_rank * layers * shape.layer_weights(tensor)
    held = constants.parameter * (params + shape.vocab_size * width)
    if len(lengths) > 1 and "kv_twice" in habits:
        held += constants.key_value_gradient * draft.config.data.seq_len * width * layers
    if tensor > 1 and "gathered" in habits:
        held += constants.gathered * max(lengths) * dim
    held += constants.reserve if "reserve" in habits else 0

    def unit(action) -> float:
        """Bytes that wait from a forward to its backward."""
        length, end = lengths[action.chunk], sum(lengths[: action.chunk + 1])
        waits = constants.activation * length
        if len(lengths) > 1 and "kv_twice" in habits:
            waits += constants.key_value * end
        logits = 0.0
        if action.stage == last and "whole_logits" in habits:
            logits = constants.logit * length * shape.vocab_size / tensor
        return waits * width * layers + logits

    peaks = []
    for row in plan.ranks:
        alive = peak = 0.0
        for action in row:
            alive += unit(action) if action.op is Op.F else -unit(action)
            peak = max(peak, alive)
        peaks.append(peak)
    return held + max(peaks)


def _speed_rows(constants: Constants, habits: list[str]) -> Iterator[dict[str, Any]]:
    for (seq_len, num_microbatches), published in THROUGHPUT.items():
        machine = Machine("7b", 4, 8, seq_len)
        drafts = {o: _draft(machine, o, num_microbatches=num_microbatches) for o in ORDERS}
        predicted = [speed(draft, constants, habits) for draft in drafts.values()]
        for order, theirs, ours in zip(ORDERS, published, predicted, strict=True):
            yield {
                "tokens": seq_len, "M": num_microbatches, "schedule": order,
                "published": theirs, "predicted": round(ours, 2),
                "ratio": theirs / published[0], "predicted ratio": ours / predicted[0],
            }


def speed(draft: Draft, constants: Constants, habits: list[str]) -> float:
    """TFLOP/s per GPU as they count FLOPs."""
    work = work_of(draft, find_hardware(HARDWARE))
    if "blocking" in habits:
        work = replace(work, host_reads=constants.restart)
    seconds = float(simulate(draft.plan, work.costs()).makespan)
    data = draft.config.data
    flops = draft.cost.step_flops(
        "published", seq_len=data.seq_len, num_sequences=draft.config.schedule.num_microbatches
    )
    return flops / seconds / draft.num_devices / 1e12


if __name__ == "__main__":
    raise SystemExit(main())
