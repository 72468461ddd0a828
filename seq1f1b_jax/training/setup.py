"""From a configuration to the parts of a run: mesh, plan, chunk lengths, pipelined step."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import DTypeLike
from numpy.typing import NDArray

from seq1f1b_jax.cli.devices import num_cores
from seq1f1b_jax.config import Config
from seq1f1b_jax.config.lora import ADAPTER_LEAVES
from seq1f1b_jax.models import num_params
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.pipeline import PipelineStep, Stage, build_step, make_layout, make_mesh
from seq1f1b_jax.pipeline.build import choose_attention
from seq1f1b_jax.pipeline.conditions import conditions_of, device_text
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.params.trained import find_trained
from seq1f1b_jax.pipeline.stage import active_size, leaf_name, windows_of
from seq1f1b_jax.plan.order import choose_plan, chunk_lengths
from seq1f1b_jax.schedule import StageCost, TrainedWeights, balanced_layers
from seq1f1b_jax.schedule.simulation.cost_table import CostTable
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from seq1f1b_jax.training.optimizer import make_optimizer


@dataclass(frozen=True, eq=False)
class Setup:
    """The parts that a configuration and a model decide.

    Attributes:
      cost: computation of a chunk by stage; `balanced` and the predicted bubble follow from it.
      measured: its seconds, where `schedule.costs` names a table of them.
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
    measured: MeasuredCosts | None = None
    processes_on_host: int = 1

    @property
    def time_cost(self) -> StageCost | MeasuredCosts:
        """What a step's time is predicted from."""
        return self.measured or self.cost

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
    options, notes = executor_options(config, mesh.devices.flat[0])
    tile = choose_attention(stage, mesh, options).block
    cut = partial(chunk_lengths, config, plan=plan, tile=tile)
    cost = replace(stage_cost(config, stage, (stage.num_layers,)), visible_keys=visible_keys)
    layers = sizes.layers_per_stage
    if layers == "balanced":
        layers = balanced_layers(plan, cost, cut, max_slowdown=config.schedule.max_slowdown)
    layout = make_layout(
        stage.num_layers, num_ranks, vocab_size=stage.vocab_size, tied=stage.tied,
        stages_per_rank=plan.stages_per_rank, layers_per_stage=layers,
    )
    cost = replace(cost, layers_per_stage=layout.layers_per_stage)
    measured, more = measured_costs(config, stage, cost, mesh=mesh, options=options)
    pipeline = build_step(
        stage, plan, mesh, chunk_lengths=cut(cost, measured=measured),
        layers_per_stage=cost.layers_per_stage, options=options,
    )
    optimizer = make_optimizer(config.optimizer, config.train.num_steps, pipeline=pipeline)
    notes = (*notes, *messages, *more)
    return Setup(config, stage, mesh, cost, pipeline, optimizer, notes, measured)


def executor_options(
    config: Config, device: jax.Device
) -> tuple[ExecutorOptions, tuple[str, ...]]:
    """How units of work are computed on this device, and messages about it."""
    dtype, notes = compute_dtype(config.executor.compute_dtype, device)
    executor = asdict(config.executor)
    del executor["check_memory"]
    offload = 0.0 if config.executor.offload == "auto" else config.executor.offload
    options = ExecutorOptions(
        **(executor | {"compute_dtype": dtype, "offload": offload}),
        restart_positions=config.data.restart_positions,
        trainable=config.trainable,
        z_loss=config.train.z_loss,
        balance_loss=config.train.balance_loss,
        router_z_loss=config.train.router_z_loss,
        sequence_parallel=config.mesh.sequence_parallel,
    )
    return options, notes


def conditions(
    config: Config, stage: Stage, cost: StageCost, *, mesh: Mesh, options: ExecutorOptions
) -> dict[str, Any]:
    """What the seconds of the run's actions depend on."""
    return conditions_of(
        stage, cost, choose_attention(stage, mesh, options), options=options,
        num_tensor=config.mesh.tensor,
        device=device_text(mesh.devices.flat[0], num_cores=num_cores()),
    )


def measured_costs(
    config: Config, stage: Stage, cost: StageCost, *, mesh: Mesh, options: ExecutorOptions
) -> tuple[MeasuredCosts | None, tuple[str, ...]]:
    """The costs of the file that `schedule.costs` names, and notes on it; None without one.

    Raises:
      ValueError: it holds none, or those of another model, computation or device.
    """
    name = config.schedule.costs
    if name is None:
        return None, ()
    table = CostTable.load(name)
    wanted = conditions(config, stage, cost, mesh=mesh, options=options)
    return MeasuredCosts(table, cost), table.check(wanted, name=name)


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


def stage_cost(config: Config, stage: Stage, layers_per_stage: tuple[int, ...]) -> StageCost:
    """The model's sizes, as used by the partition and the predicted bubble."""
    mlp_dim, gated = mlp_sizes(stage)
    return StageCost.of(
        stage, layers_per_stage, mlp_dim=mlp_dim, gated=gated,
        num_layer_params=num_params(stage, only_layers=True, only_active=True),
        num_sequences=config.data.microbatch_size // config.mesh.data,
        recompute=config.executor.recompute, windows=windows_of(stage),
        trained=trained_weights(config, stage),
    )


def trained_weights(config: Config, stage: Stage) -> TrainedWeights | None:
    """What trains, as FLOPs count it; `None`: all of a model without adapters."""
    if config.trainable is None:
        return None
    trained = find_trained(stage, config.trainable)
    layers = jax.eval_shape(stage.init, jax.random.key(0)).layers
    matrices = {
        leaf_name(path): active_size(stage, path, leaf) // stage.num_layers
        for path, leaf in jax.tree.leaves_with_path(layers) if leaf.ndim > 2
    }
    adapters = sum(size for name, size in matrices.items() if name.endswith(ADAPTER_LEAVES))
    own = sum(size for name, size in matrices.items() if f"layers.{name}" in trained)
    return TrainedWeights(adapters, own, ("embedding" if stage.tied else "head") in trained)


def mlp_sizes(stage: Stage) -> tuple[int, bool]:
    """Hidden width of all MLPs that a token goes through, and whether they have a gate.

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
        return mlp_dim * (getattr(stage, "experts_per_token", 0) or 1), gated
    layers = jax.eval_shape(stage.init, jax.random.key(0)).layers
    matrices = sum(
        active_size(stage, path, leaf) for path, leaf in jax.tree.leaves_with_path(layers)
        if leaf.ndim >= 3
    )
    heads = 2 * (stage.num_heads + stage.num_kv_heads) * stage.head_dim
    mlp = matrices / stage.num_layers / stage.model_dim - heads
    return max(1, round(mlp / 2)), False
