"""Which kind a layer is, where the layers of a model differ: known while tracing, or looked up.

Every rank runs one program. Where the layers of one index have several kinds, over all stages, each
is a loop of zero or one trips; where they have one, nothing is asked.
"""

from collections.abc import Hashable, Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np


class KindTable:
    """Kind of every layer of every stage.

    Args:
      kinds: of the layers along the model, by number; over again where a program has more layers,
        as one that times a part of a model.
      layers_per_stage: layers of every stage along the model.

    Example:
      >>> table = KindTable((0, 0, 1, 0), (2, 2))
      >>> table.at(0, 1), len(table.at(0, 0))
      ([(0, True)], 2)
    """

    def __init__(self, kinds: Sequence[int], layers_per_stage: Sequence[int]):
        self._table = np.full((len(layers_per_stage), max(layers_per_stage)), -1, np.int32)
        ends = list(accumulate(layers_per_stage))
        for row, count, end in zip(self._table, layers_per_stage, ends, strict=True):
            row[:count] = [kinds[layer % len(kinds)] for layer in range(end - count, end)]

    def at(
        self, stage: int | jax.Array, layer: int | jax.Array
    ) -> list[tuple[int, bool | jax.Array]]:
        """Kinds that a layer of a stage may be, each with whether it is that.

        Args:
          stage: of the unit, traced.
          layer: its index in the stage; traced, it may be any.
        """
        columns = self._table if not isinstance(layer, int) else self._table[:, layer]
        present = sorted({kind for kind in columns.ravel().tolist() if kind >= 0})
        if len(present) == 1:
            return [(present[0], True)]
        where = stage if isinstance(layer, int) else (stage, layer)
        kind = jnp.asarray(columns)[where]
        return [(index, kind == index) for index in present]


def numbered(kinds: Sequence[Hashable]) -> tuple[int, ...]:
    """The kinds by number, in the order in which they come."""
    order = list(dict.fromkeys(kinds))
    return tuple(order.index(kind) for kind in kinds)
