"""What the seconds of an action depend on, beside the layers of its stage and its chunk."""

import platform
from typing import Any

import jax
import jax.numpy as jnp

from seq1f1b_jax.ops.attention import AttentionBackend
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.stage import Stage
from seq1f1b_jax.schedule import StageCost
from seq1f1b_jax.schedule.simulation.durations import trained_conditions

SIZES = ("model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "gated", "vocab_size")
OPTIONS = ("recompute", "sequence_parallel", "halves", "offload", "unroll", "loss_block")


def conditions_of(
    stage: Stage,
    cost: StageCost,
    attention: AttentionBackend,
    *,
    options: ExecutorOptions,
    num_tensor: int,
    device: str,
) -> dict[str, Any]:
    """By name, as a table of measured costs keeps them: numbers, words, truths and None.

    Args:
      stage: the model, whole.
      cost: its sizes.
      attention: the backend.
      options: how it computes.
      num_tensor: devices that share a stage.
      device: which, from `device_text`.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.ops.attention import get_backend
      >>> from seq1f1b_jax.pipeline import ExecutorOptions
      >>> from seq1f1b_jax.schedule import StageCost
      >>> stage = build_stage("llama", preset="tiny")
      >>> found = conditions_of(
      ...     stage, StageCost.of(stage, (2,)), get_backend("xla_dense"),
      ...     options=ExecutorOptions(), num_tensor=1, device="x86_64 CPU, 2 cores",
      ... )
      >>> found["model"], found["attention"], found["compute_dtype"]
      ('Llama', 'xla_dense', 'float32')
    """
    params = cost.num_layer_params
    return {
        "model": type(stage).__name__,
        **{name: getattr(cost, name) for name in SIZES},
        "window": cost.window,
        "layer_params": None if params is None else params / stage.num_layers,
        "num_sequences": cost.num_sequences,
        **trained_conditions(cost.trained),
        "attention": attention.name,
        "compute_dtype": jnp.dtype(options.compute_dtype).name,
        **{name: getattr(options, name) for name in OPTIONS},
        "tensor": num_tensor,
        "device": device,
        "jax": jax.__version__,
    }


def device_text(device: Any, *, num_cores: int) -> str:
    """A device in words; of a CPU with the cores that this process may use.

    Example:
      >>> from types import SimpleNamespace
      >>> device_text(SimpleNamespace(platform="gpu", device_kind="NVIDIA H200"), num_cores=16)
      'NVIDIA H200'
    """
    if device.platform != "cpu":
        return device.device_kind
    return f"{platform.machine()} CPU, {num_cores} core{'s' * (num_cores > 1)}"
