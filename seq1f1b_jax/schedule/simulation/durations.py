"""How long actions take: all that a simulation knows of machine and model."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from seq1f1b_jax.schedule.actions import Action, Op

T = TypeVar("T", bound=Any)

Cost: TypeAlias = ArrayLike | Fraction
"""One time for all, or an array that broadcasts to `[num_stages, num_chunks]`."""


@dataclass(frozen=True)
class Costs:
    """Time of every action, by operation, stage and chunk. Integers and fractions stay exact.

    Attributes:
      forward: time of an `F`, `[num_stages, num_chunks]` or anything that broadcasts to it.
      backward: time of a `B`, likewise.
      weights: time of a `W`; None: that of the forward, whose matmuls it has, at most a `B`.
      inputs: time of an `I`; None: what the `W` leaves of the `B`.
      transfer: time of a message between neighbours.

    Example:
      >>> from seq1f1b_jax.schedule import Action, Costs, Op
      >>> Costs(forward=1, backward=2).per_action(2, 1)(Action(Op.I, 0, 0, 0))
      1
    """

    forward: Cost
    backward: Cost
    weights: Cost | None = None
    inputs: Cost | None = None
    transfer: Any = 0

    def scaled(self, factor: Any) -> "Costs":
        """The same in another unit: all times multiplied."""
        return Costs(
            **{
                name: None if value is None else np.asarray(value) * factor
                for name, value in vars(self).items()
                if name != "transfer"
            },
            transfer=self.transfer * factor,
        )

    def per_action(self, num_stages: int, num_chunks: int) -> Callable[[Action], Any]:
        """The cost of an action as a function.

        Raises:
          ValueError: a cost does not broadcast to the sizes, or one is below 0.
        """
        shape = num_stages, num_chunks
        arrays = {Op.F: _broadcast(self.forward, shape), Op.B: _broadcast(self.backward, shape)}
        weights = np.minimum(arrays[Op.F], arrays[Op.B]) if self.weights is None else self.weights
        arrays[Op.W] = _broadcast(weights, shape)
        rest = arrays[Op.B] - arrays[Op.W]
        arrays[Op.I] = rest if self.inputs is None else _broadcast(self.inputs, shape)
        for op, array in arrays.items():
            if (array < 0).any():
                raise ValueError(
                    f"the cost of {op} is {array.min()}, below 0; give times of at least 0, and a"
                    " backward of at least its W"
                )
        costs = {op: array.tolist() for op, array in arrays.items()}
        return lambda action: costs[action.op][action.stage][action.chunk]


def _broadcast(cost: Cost, shape: tuple[int, int]) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(cost), shape)
    except ValueError as error:
        raise ValueError(
            f"a cost of shape {np.asarray(cost).shape} does not fit num_stages={shape[0]}"
            f" and num_chunks={shape[1]}; give one number, or an array of these two sizes"
        ) from error


class TrainedWeights(NamedTuple):
    """Numbers in matmul weights.

    Attributes:
      adapters: of a layer's adapters, which come beside its other matrices.
      layer: of a layer, adapters included, those whose gradients are computed.
      head: whether the head's gradient is.
    """

    adapters: int
    layer: int
    head: bool


def trained_conditions(trained: TrainedWeights | None) -> dict[str, int | bool | None]:
    """What measured seconds depend on of it, by name; `None`: all trains."""
    layer, head = (None, None) if trained is None else (trained.layer, trained.head)
    return {"trained_weights": layer, "trains_head": head}


def mean_over_layers(windows: Sequence[int | None], of: Callable[[int | None], T]) -> T:
    """The mean over layers of what depends on a layer's window.

    Args:
      windows: of the layers; equal ones are asked for once.
      of: a number or an array, by the window.

    Example:
      >>> mean_over_layers((None, 4, 4), lambda window: 10 if window is None else window)
      6.0
    """
    counts = Counter(windows)
    if len(counts) == 1:
        return of(windows[0])
    total: Any = sum(count * of(window) for window, count in counts.items())
    return total / len(windows)
