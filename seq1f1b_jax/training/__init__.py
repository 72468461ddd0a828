"""Training around the pipeline: data, optimizer, step, checkpoints, metrics, the run itself.

For a custom loop: `init_state` and `make_train_step`. They are imported on first use, since parts
of this package are used where JAX is not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq1f1b_jax.training.step import StepMetrics, TrainState, init_state, make_train_step

__all__ = ["StepMetrics", "TrainState", "init_state", "make_train_step"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.step"), name)
