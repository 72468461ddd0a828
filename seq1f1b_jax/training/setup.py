"""From a configuration to the parts of a run: mesh, plan, chunk lengths, pipelined step."""

import math
from dataclasses import asdict, dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import DTypeLike
from numpy.typing import NDArray

from seq1f1b_jax.config import Config, ScheduleConfig
from seq1f1b_jax.models import num_params
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.paths import one_line
from seq1f1b_jax.pipeline import PipelineStep, Stage, build_step, make_layout, make_mesh
from seq1f1b_jax.pipeline.build import choose_attention
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.stage import window_of
from seq1f1b_jax.schedule import (
    Plan,
    StageCost,
    even_lengths,
    explicit_lengths,
    make_plan,
    tiled_lengths,
)
from seq1f1b_jax.schedule.files.plan_file import load_plan
from seq1f1b_jax.schedule.partition import MAX_UNEVENNESS
from seq1f1b_jax.schedule.plan import PlanError
from seq1f1b_jax.schedule.simulation.lengths import frugal_lengths
from seq1f1b_jax.training.optimizer import make_optimizer


@dataclass(frozen=True, eq=False)
class Setup:
    """The parts that a configuration and a model decide.

    Attributes:
      cost: computation of a chunk by stage; `balanced` and the predicted bubble follow from it.
      notes: decisions for the user to know (a device without bfloat16).
      processes_on_host: processes of the run on this host; known where they share its memory.
    """

    config: Config
    stage: Stage
    mesh: Mesh
    cost: StageCost
    pipeline: PipelineStep
    optimizer: optax.GradientTransformation
    notes: tuple[str, ...]
    processes_on_host: int = 1

    @property
    def num_sequences(self) -> int:
        """Sequences of one step, all microbatches together."""
        return self.config.schedule.num_microbatches * self.config.data.microbatch_size


def make_setup(
    config: Config, stage: Stage, *, visible_keys: NDArray[np.float64] | None = None
) -> Setup:
    """Build everything but data and parameters; nothing is compiled yet.

    Args:
      config: of the run.
      stage: the model.
      visible_keys: `[seq_len]`, keys that the query at each position sees, on average over packed
        documents; `None`: what causality and the model's window leave.

    Raises:
      ValueError: devices, layers, chunk lengths or names that do not fit together.
    """
    sizes = config.mesh
    mesh = make_mesh(sizes.pipe, num_data=sizes.data, num_tensor=sizes.tensor)
    num_ranks = mesh.shape[PIPE]
    plan, messages = choose_plan(config.schedule, num_ranks=num_ranks)
    layout = make_layout(
        stage.num_layers, num_ranks, vocab_size=stage.vocab_size, tied=stage.tied,
        stages_per_rank=plan.stages_per_rank, layers_per_stage=config.mesh.layers_per_stage,
    )
    cost = replace(
        stage_cost(config, stage, layout.layers_per_stage), visible_keys=visible_keys
    )
    dtype, notes = compute_dtype(config.executor.compute_dtype, mesh.devices.flat[0])
    executor = asdict(config.executor)
    del executor["check_memory"]
    offload = 0.0 if config.executor.offload == "auto" else config.executor.offload
    options = ExecutorOptions(
        **(executor | {"compute_dtype": dtype, "offload": offload}),
        restart_positions=config.data.restart_positions,
        sequence_parallel=config.mesh.sequence_parallel,
    )
    tile = choose_attention(stage, mesh, options).block
    pipeline = build_step(
        stage, plan, mesh,
        chunk_lengths=chunk_lengths(config, cost, plan=plan, tile=tile),
        layers_per_stage=layout.layers_per_stage, options=options,
    )
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    return Setup(config, stage, mesh, cost, pipeline, optimizer, (*notes, *messages))


def choose_plan(schedule: ScheduleConfig, *, num_ranks: int) -> tuple[Plan, tuple[str, ...]]:
    """The named schedule at the run's sizes, or the plan of a file.

    A file of torch's cells is read with the run's chunks, since torch has none.

    Returns:
      The plan, and messages about it: the exchange, where the file names none.

    Raises:
      ValueError: an unknown name, options that it does not take, a file that holds no valid plan,
        or one of other sizes.

    Example:
      >>> from seq1f1b_jax.config import ScheduleConfig
      >>> from seq1f1b_jax.training.setup import choose_plan
      >>> plan, messages = choose_plan(ScheduleConfig(name="Seq1F1B"), num_ranks=2)
      >>> plan.name, plan.num_units, messages
      ('seq1f1b', 32, ())
    """
    sizes = {
        "num_ranks": num_ranks,
        "num_microbatches": schedule.num_microbatches,
        "num_chunks": schedule.num_chunks,
    }
    if schedule.plan is None:
        plan = make_plan(
            schedule.name, **sizes, stages_per_rank=schedule.stages_per_rank,
            extra_warmup=schedule.extra_warmup, short_warmup=schedule.short_warmup,
        )
        return plan, ()
    shown = f"schedule.plan={one_line(schedule.plan)}"
    try:
        plan, exchange = load_plan(schedule.plan, num_chunks=schedule.num_chunks)
    except PlanError as error:
        reason, *grid = str(error).splitlines()
        show = "; python -m seq1f1b_jax.explore FILE shows it in the grid" * bool(grid)
        raise PlanError(reason.rstrip(":") + show, error.rank, error.index) from error
    if plan.forward_only:
        raise ValueError(
            f"{shown} holds no backward; a plan to train with has a B, or an I and a W, for every "
            "F"
        )
    settings = dict(zip(sizes, ("mesh.pipe", "schedule.num_microbatches", "schedule.num_chunks"),
        strict=True))
    for size, wanted in sizes.items():
        if getattr(plan, size) != wanted:
            raise ValueError(
                f"{shown} has {size}={getattr(plan, size)}, the run {wanted}; use "
                f"--{settings[size]} {getattr(plan, size)}"
            )
    return plan, (f"{shown}: {exchange}",) * bool(exchange)


def compute_dtype(setting: str, device: jax.Device) -> tuple[DTypeLike, tuple[str, ...]]:
    """The dtype of activations on this device, and messages about it.

    `auto` is bfloat16 on GPUs that have it (compute capability 8.0 and up) and float32 elsewhere: a
    CPU emulates bfloat16 slowly. A GPU without bfloat16 computes in float32 and reports it, unless
    float32 was set.
    """
    is_gpu = device.platform == "gpu"
    capability = str(getattr(device, "compute_capability", "0.0")) if is_gpu else "0.0"
    has_bfloat16 = is_gpu and float(capability) >= 8.0
    if setting != "float32" and is_gpu and not has_bfloat16:
        note = f"{device.device_kind} (compute capability {capability}) has no bfloat16"
        return jnp.float32, (f"{note}: computing in float32",)
    if setting == "auto":
        return (jnp.bfloat16 if has_bfloat16 else jnp.float32), ()
    return jnp.dtype(setting).type, ()


def chunk_lengths(
    config: Config, cost: StageCost, *, plan: Plan, tile: int | None
) -> tuple[int, ...]:
    """Tokens of each chunk, by the setting of `schedule.partition` or as listed.

    Args:
      config: of the run.
      cost: of a chunk.
      plan: the schedule; on one rank nobody waits for a costly chunk.
      tile: tokens of attention's tile, which `balanced` chunks are made of where that costs little;
        None: it has none.
    """
    schedule, seq_len = config.schedule, config.data.seq_len
    if schedule.chunk_lengths is not None:
        return explicit_lengths(seq_len, schedule.chunk_lengths)
    if schedule.partition == "even":
        return even_lengths(seq_len, schedule.num_chunks, block=schedule.block)
    cut = partial(
        tiled_lengths, seq_len, schedule.num_chunks, block=schedule.block,
        tile=tile or schedule.block,
        max_unevenness=MAX_UNEVENNESS if plan.num_ranks > 1 else math.inf,
    )
    return frugal_lengths(plan, cost, cut, seq_len=seq_len, max_slowdown=schedule.max_slowdown)


def stage_cost(config: Config, stage: Stage, layers_per_stage: tuple[int, ...]) -> StageCost:
    """The model's sizes, as used by the partition and the predicted bubble."""
    mlp_dim, gated = mlp_sizes(stage)
    return StageCost.of(
        stage, layers_per_stage, mlp_dim=mlp_dim, gated=gated,
        num_layer_params=num_params(stage, only_layers=True),
        num_sequences=config.data.microbatch_size // config.mesh.data,
        recompute=config.executor.recompute, window=window_of(stage),
    )


def mlp_sizes(stage: Stage) -> tuple[int, bool]:
    """Hidden width of the MLP, and whether it has a gate.

    For a stage without `mlp_dim` and `gated`, its parameters are counted: all matrices of a layer
    but those of standard attention are taken for an MLP of two.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.training.setup import mlp_sizes
      >>> mlp_sizes(build_stage("llama", preset="tiny"))
      (64, True)
    """
    mlp_dim, gated = getattr(stage, "mlp_dim", None), getattr(stage, "gated", None)
    if mlp_dim is not None and gated is not None:
        return mlp_dim, gated
    layers = jax.eval_shape(stage.init, jax.random.key(0)).layers
    matrices = sum(leaf.size for leaf in jax.tree.leaves(layers) if leaf.ndim >= 3)
    heads = 2 * (stage.num_heads + stage.num_kv_heads) * stage.head_dim
    mlp = matrices / stage.num_layers / stage.model_dim - heads
    return max(1, round(mlp / 2)), False
