"""Every setting of a run as frozen dataclasses, and the checks across them."""

from seq1f1b_jax.config.data import DataConfig
from seq1f1b_jax.config.lora import LoraConfig, Projection
from seq1f1b_jax.config.model import (
    DEFAULT_POSITIONS,
    MODEL_DEFAULTS,
    ROPE_TYPES,
    Activation,
    LayerKind,
    ModelConfig,
    NormPlacement,
    Positions,
    QkNorm,
    RopeConfig,
    all_sizes,
    resolve_model,
)
from seq1f1b_jax.config.optimizer import OptimizerConfig
from seq1f1b_jax.config.pipeline import ExecutorConfig, MeshConfig, ScheduleConfig, XlaConfig
from seq1f1b_jax.config.sections import (
    CheckpointConfig,
    Config,
    DistributedConfig,
    LoggingConfig,
    TrainConfig,
    WatchdogConfig,
)

__all__ = [
    "DEFAULT_POSITIONS",
    "MODEL_DEFAULTS",
    "ROPE_TYPES",
    "Activation",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "ExecutorConfig",
    "LayerKind",
    "LoggingConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "NormPlacement",
    "OptimizerConfig",
    "Positions",
    "Projection",
    "QkNorm",
    "RopeConfig",
    "ScheduleConfig",
    "TrainConfig",
    "UserError",
    "WatchdogConfig",
    "XlaConfig",
    "all_sizes",
    "resolve_model",
]


class UserError(ValueError):
    """Bad input or bad luck that one line can explain: what was given, the rule, the cure."""
