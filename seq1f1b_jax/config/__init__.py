"""Every setting of a run as frozen dataclasses, and the checks across them."""

from seq1f1b_jax.config.model import (
    MODEL_DEFAULTS,
    ROPE_TYPES,
    ModelConfig,
    RopeConfig,
    resolve_model,
)
from seq1f1b_jax.config.sections import (
    CheckpointConfig,
    Config,
    DataConfig,
    DistributedConfig,
    ExecutorConfig,
    LoggingConfig,
    MeshConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    WatchdogConfig,
    XlaConfig,
)

__all__ = [
    "MODEL_DEFAULTS",
    "ROPE_TYPES",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "DistributedConfig",
    "ExecutorConfig",
    "LoggingConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RopeConfig",
    "ScheduleConfig",
    "TrainConfig",
    "UserError",
    "WatchdogConfig",
    "XlaConfig",
    "resolve_model",
]


class UserError(ValueError):
    """Bad input or bad luck that one line can explain: what was given, the rule, the cure."""
