"""Memory and time of a draft on a device: what `plan` prints and what its search compares."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.hardware import Hardware
from seq1f1b_jax.plan.model.state import num_table_gradients
from seq1f1b_jax.plan.update import update_seconds
from seq1f1b_jax.plan.work import KINDS, Work, work_of
from seq1f1b_jax.schedule import Costs, Op, Simulation, simulate
from seq1f1b_jax.schedule.memory.terms import (
    MemoryPrediction,
    room_of,
    rooms_used,
    step_bytes,
)
from seq1f1b_jax.schedule.simulation.makespans import Stopwatch


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what they go to; they add up to it.

    Attributes:
      work: of actions by kind (`work.KINDS`), on the average rank.
      bubble: a rank waits, if all stages and all chunks cost the same.
      imbalance: it waits longer because they do not.
      exchange: it waits for messages.
      reduction: gradients and parameters over `data`, tables over `pipe`, once per step.
      update: optimizer and casts, once per step.
      ranks: seconds of actions of each rank.
    """

    work: Mapping[str, float]
    bubble: float
    imbalance: float
    exchange: float
    reduction: float
    update: float
    ranks: tuple[float, ...]

    @property
    def total(self) -> float:
        """Of the step."""
        return sum(self.terms().values())

    @property
    def waiting(self) -> float:
        """Of the average rank."""
        return self.bubble + self.imbalance + self.exchange

    def terms(self) -> dict[str, float]:
        """All by name, in order."""
        return {
            **self.work, "bubble": self.bubble, "imbalance": self.imbalance,
            "exchange": self.exchange, "reduction": self.reduction, "update": self.update,
        }


@dataclass(frozen=True, eq=False)
class Estimate:
    """A draft on a device.

    Example:
      >>> from seq1f1b_jax.config import Config, MeshConfig, ModelConfig, ScheduleConfig
      >>> from seq1f1b_jax.config.sections import DataConfig
      >>> from seq1f1b_jax.plan.draft import draft_of
      >>> from seq1f1b_jax.plan.fill import fill_model
      >>> from seq1f1b_jax.plan.hardware import find_hardware
      >>> config = Config(
      ...     model=ModelConfig(family="gpt", preset="2.7b"), mesh=MeshConfig(pipe=8),
      ...     schedule=ScheduleConfig(num_microbatches=16), data=DataConfig(seq_len=32768),
      ... )
      >>> hardware = find_hardware("h100-80g")
      >>> estimate = Estimate(draft_of(fill_model(config), hardware), hardware)
      >>> round(estimate.held / 1e9), estimate.fits
      (32, True)
    """

    draft: Draft
    hardware: Hardware

    @cached_property
    def memory(self) -> MemoryPrediction:
        """What every device allocates in a step."""
        room = room_of(self.draft.table, self.draft.layers_per_stage)
        return step_bytes(self.draft.sizes, room)

    @cached_property
    def used(self) -> tuple[MemoryPrediction, ...]:
        """What each rank uses of it."""
        rooms = rooms_used(self.draft.table, self.draft.layers_per_stage)
        return tuple(step_bytes(self.draft.sizes, room) for room in rooms)

    @property
    def held(self) -> int:
        """Bytes of a device: parameters, optimizer and a step."""
        return self.draft.state.total + self.memory.total

    @property
    def note(self) -> str | None:
        """What a reader of the figures has to know; `None`: nothing."""
        if self.draft.config.executor.offload == "auto":
            return "executor.offload=auto is planned as 0: name a fraction, or let the search do so"
        if self.draft.measured is not None:
            device = self.draft.measured.table.conditions.get("device", "another device")
            return f"seconds are those of {self.draft.config.schedule.costs}, measured on {device}"
        return None

    def checked(self) -> "Estimate":
        """Itself, once all that can be refused has been looked at.

        Raises:
          ValueError: sizes that do not fit together.
        """
        shape, tensor = self.draft.shape, self.draft.num_tensor
        if shape.num_heads % tensor or shape.mlp_dim % tensor:
            raise ValueError(
                f"mesh.tensor={tensor} devices cannot share {shape.num_heads} heads and an MLP of "
                f"width {shape.mlp_dim}; use a --mesh.tensor that divides both"
            )
        num_stages = self.draft.outline.num_stages
        if shape.num_layers < num_stages:
            raise ValueError(
                f"model.num_layers={shape.num_layers} is fewer than {num_stages} stages, and each "
                "needs a layer; use fewer ranks (--mesh.pipe)"
            )
        return self

    @property
    def fits(self) -> bool:
        """Whether the devices and the hosts have that much."""
        return self.held <= self.hardware.usable and self.host <= self.hardware.host_memory

    @property
    def host(self) -> int:
        """Bytes of host memory, of all devices of a host."""
        return self.of_host(self.memory.host)

    def of_host(self, device_share: int) -> int:
        """Bytes of all devices of a host, each of which has this share."""
        return device_share * min(self.hardware.devices_per_host, self.draft.num_devices)

    @cached_property
    def work(self) -> Work:
        """Seconds of every action."""
        return work_of(self.draft, self.hardware)

    @property
    def once(self) -> float:
        """Seconds of what is done once per step."""
        return self._reduction() + update_seconds(self.draft, self.hardware)

    @cached_property
    def costs(self) -> Costs:
        """Seconds of every action: measured ones where the settings name them."""
        if self.draft.measured is None:
            return self.work.costs()
        return replace(
            self.draft.measured.costs(self.draft.lengths), transfer=self.work.transfer
        )

    @cached_property
    def _run(self) -> Simulation:
        return simulate(self.draft.plan, self.costs, machine="executor")

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self._makespan + self.once

    @cached_property
    def _makespan(self) -> float:
        return Stopwatch(self.draft.plan).step_time(self.costs)

    @cached_property
    def time(self) -> StepTime:
        """Seconds of a step, by what they go to."""
        plan, work, run, costs = self.draft.plan, self.work, self._run, self.costs
        makespan, ranks = run.makespan, run.busy
        alone = makespan
        if work.transfer:
            alone = simulate(plan, replace(costs, transfer=0.0), machine="executor").makespan
        even = simulate(plan, _averaged(costs), machine="executor").makespan
        mean = sum(ranks) / len(ranks)
        ops = (Op.F, Op.I, Op.W) if plan.splits else (Op.F, Op.B)
        units = plan.num_microbatches / plan.num_ranks
        spent = {
            kind: units * float(sum(work.by_op[op][kind].sum() for op in ops)) for kind in KINDS
        }
        spent["host reads"] = mean - sum(spent.values())
        if self.draft.measured is not None:
            spent = {"measured": mean}
        return StepTime(
            spent, bubble=float(even - mean), imbalance=float(alone - even),
            exchange=float(makespan - alone), reduction=self._reduction(),
            update=update_seconds(self.draft, self.hardware),
            ranks=tuple(map(float, ranks)),
        )

    @property
    def tokens_per_second(self) -> float:
        """Of each device."""
        return self.draft.tokens_per_step / self.time.total / self.draft.num_devices

    def utilisation(self, convention: str = "model") -> float:
        """FLOPs of a step over those that the devices could do in its time."""
        data = self.draft.config.data
        cost = replace(self.draft.cost, num_sequences=1)
        flops = cost.step_flops(
            convention, seq_len=data.seq_len,
            num_sequences=self.draft.tokens_per_step // data.seq_len,
        )
        return flops / (self.time.total * self.draft.num_devices * self.hardware.matmul_flops)

    def price(self, tokens: float, per_device_hour: float) -> float:
        """Of training on so many tokens, at a price for an hour of one device."""
        return tokens / self.tokens_per_second / 3600 * per_device_hour

    def _reduction(self) -> float:
        draft, mesh = self.draft, self.draft.config.mesh
        params = draft.state.trained
        seconds = 0.0
        if mesh.data > 1:  # gradients are reduced and scattered, parameters gathered
            share = (mesh.data - 1) / mesh.data
            seconds += 2 * params * share / self.hardware.bandwidth(draft.num_devices)
        if draft.num_ranks > 1:  # one way in the compute dtype, gradients back in float32
            sizes = draft.sizes
            own = num_table_gradients(draft.shape, draft.spread)
            moved = sizes.table_values * sizes.itemsize + own * sizes.wide
            seconds += moved / self.hardware.bandwidth(draft.num_ranks * draft.num_tensor)
        return seconds


def _averaged(costs: Costs) -> Costs:
    """The same work, spread evenly over stages and chunks; no message takes time."""
    means = {
        name: float(np.mean(value)) for name, value in vars(costs).items() if name != "transfer"
    }
    return Costs(**means)
