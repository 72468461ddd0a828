"""Seconds of a step before it runs: by measured costs, else as the planner predicts them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from seq1f1b_jax.cli.devices import num_cores
from seq1f1b_jax.models import Decoder
from seq1f1b_jax.pipeline.stage import windows_of
from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.hardware import Hardware, hardware_of
from seq1f1b_jax.plan.model.shape import ModelShape
from seq1f1b_jax.schedule import Simulation
from seq1f1b_jax.training.setup import Setup

MEASURED = "measured costs"
OPTIONS = ("mlp_bias", "qk_norm", "norm_placement", "num_experts", "experts_per_token")
"""Fields that some families have, and a plan knows."""
WAITS = ("bubble", "imbalance", "exchange")
"""Terms of a step in which ranks wait; one of them may be below 0, all together not."""


class PredictedTime(NamedTuple):
    """A step on the run's devices.

    Attributes:
      terms: seconds by what they go to; they add up to the step.
      source: what they are predicted from.
    """

    terms: Mapping[str, float]
    source: str

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.terms.values())


def predict_seconds(setup: Setup, simulation: Simulation) -> PredictedTime | None:
    """The time of a step; `None` for a custom model, or a device that the planner does not know.

    Virtual devices that share cores work one after the other, so nobody's waiting takes time.

    Args:
      setup: of the run.
      simulation: of its step, from `predict_time`.
    """
    if setup.measured is not None:
        work = sum(simulation.busy) / simulation.num_ranks
        terms = {"work": float(work), "waiting": float(simulation.makespan - work)}
        return PredictedTime(terms, MEASURED)
    device = setup.mesh.devices.flat[0]
    hardware = hardware_of(device.device_kind)
    draft = draft_of_run(setup, hardware) if hardware else None
    if draft is None or hardware is None:
        return None
    time, source = Estimate(draft, hardware).time, hardware.name
    work = {name: max(0.0, s) for name, s in time.terms().items() if name not in WAITS}
    waiting = max(0.0, time.total - sum(work.values()))
    sharing = setup.mesh.size / num_cores() if device.platform == "cpu" else 1.0
    if sharing * sum(work.values()) > time.total:
        work, waiting = {name: sharing * s for name, s in work.items()}, 0.0
        source += f", shared by {sharing:g} virtual devices"
    return PredictedTime({**work, "waiting": waiting}, source)


def draft_of_run(setup: Setup, hardware: Hardware) -> Draft | None:
    """The run as the planner sees it; `None` for a custom model."""
    if not isinstance(setup.stage, Decoder):
        return None
    pipeline, shape = setup.pipeline, shape_of_stage(setup.stage, setup.config.trainable)
    itemsize = jnp.dtype(pipeline.options.compute_dtype).itemsize
    fused = pipeline.attention.block == 0
    return Draft(setup.config, shape, hardware.kind, fused, itemsize)


def shape_of_stage(stage: Decoder, trainable: tuple[str, ...] | None = None) -> ModelShape:
    """The planner's shape of a model that is built already.

    Example:
      >>> from seq1f1b_jax.models import build_stage, num_params
      >>> stage = build_stage("gpt", preset="125m")
      >>> shape_of_stage(stage).num_params == num_params(stage)
      True
    """
    is_gpt = stage.family == "gpt"
    names = (
        "num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
        "vocab_size", "tied",
    )
    return ModelShape(
        **{name: getattr(stage, name) for name in names}, gated=stage.gated, centred=is_gpt,
        windows=windows_of(stage),
        qkv_bias=is_gpt or getattr(stage, "qkv_bias", False),
        output_bias=is_gpt or getattr(stage, "output_bias", False),
        **{name: getattr(stage, name) for name in OPTIONS if hasattr(stage, name)},
        learned_positions=getattr(stage, "max_positions", None) or 0,
        lora=stage.lora, trainable=trainable,
    )


def describe_time(predicted: PredictedTime) -> str:
    """In a line.

    Example:
      >>> describe_time(PredictedTime({"matmul": 3.0, "bubble": 1.0}, "H100 SXM 80 GB"))
      '4 s a step predicted (H100 SXM 80 GB): matmul 75%, bubble 25%'
    """
    largest = sorted(predicted.terms.items(), key=lambda item: -item[1])[:4]
    shares = ", ".join(f"{name} {s / predicted.seconds:.0%}" for name, s in largest if s > 0)
    return f"{predicted.seconds:.3g} s a step predicted ({predicted.source}): {shares}"


def describe_measured(predicted: PredictedTime, seconds: float) -> str:
    """The same beside the clock, at the end of a run.

    Example:
      >>> describe_measured(PredictedTime({"matmul": 4.0}, "H100 SXM 80 GB"), 5.0)
      'a step took 5 s, the median of the last ones; 4 s were predicted (H100 SXM 80 GB)'
    """
    return (
        f"a step took {seconds:.3g} s, the median of the last ones; {predicted.seconds:.3g} s were "
        f"predicted ({predicted.source})"
    )
