"""When each action ran: two host callbacks around every action of a step that is measured.

The first callback waits for the message that the action consumes, and the action for the callback;
the second waits for a number of everything that the action sends or adds to. On a CPU a pair costs
a fraction of a millisecond; on a GPU each waits for the device, so short actions look longer than
they are. A step without a recorder holds nothing of this.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import io_callback

from seq1f1b_jax.pipeline.executor.scan import Actions
from seq1f1b_jax.schedule import Action, Op

_STAMP = jax.ShapeDtypeStruct((), jnp.int32)
"""Microseconds since the recorder was cleared: enough for half an hour."""


class Measured(NamedTuple):
    """One action as it ran on this process' clock; seconds since the recorder was cleared."""

    action: Action
    start_seconds: float
    end_seconds: float


class Recorder:
    """Collects what the callbacks of a traced step report. Devices of one process share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything and start the clock."""
        with self._lock:
            self._records: list[Measured] = []
            self._zero = time.perf_counter()

    @property
    def records(self) -> tuple[Measured, ...]:
        """What was reported since the clock started, in the order of its end."""
        with self._lock:
            return tuple(self._records)

    def now(self, *_) -> np.int32:
        """Microseconds since the clock started; the program waits for the arguments first."""
        return np.int32(1e6 * (time.perf_counter() - self._zero))

    def finish(self, op: Op, chunk: int, stage, microbatch, start, replica=0, *_) -> np.int32:
        """Record an action that is over, as the first device of its stage ran it.

        Returns:
          0, for the program to add to a value, so that it waits.
        """
        end = self.now() / 1e6
        action = Action(op, int(stage), int(microbatch), chunk)
        with self._lock:
            if replica == 0:
                self._records.append(Measured(action, float(start) / 1e6, float(end)))
        return np.int32(0)


class LastActions(Recorder):
    """Remembers only what ran last on each stage of this process: where a run hangs."""

    def clear(self) -> None:
        """Forget everything."""
        self.last: dict[int, Action] = {}

    def now(self, *_) -> np.int32:
        """No clock."""
        return np.int32(0)

    def finish(self, op: Op, chunk: int, stage, microbatch, *_) -> np.int32:
        """Remember an action that is over."""
        self.last[int(stage)] = Action(op, int(stage), int(microbatch), chunk)
        return np.int32(0)


def record(actions: Actions, recorder: Recorder, *, axes: Sequence[str] = ()) -> Actions:
    """The same actions, each of which reports when it ran.

    Args:
      actions: what `run_ticks` takes.
      recorder: where they report.
      axes: mesh axes beside `pipe`.
    """
    replica = lax.axis_index(tuple(axes)) if axes else jnp.int32(0)
    return {
        op: [_recorded(action, recorder, op, chunk, replica) for chunk, action in enumerate(of_op)]
        for op, of_op in actions.items()
    }


def _recorded(
    action: Callable, recorder: Recorder, op: Op, chunk: int, replica: jax.Array
) -> Callable:
    finish = partial(recorder.finish, op, chunk)

    def run(unit, state, *message):
        start = io_callback(recorder.now, _STAMP, *map(_probe, message), _probe(state.loss))
        later = start >> 31  # 0, unknown to the compiler: so the action waits
        unit = jax.tree.map(lambda field: field + later, unit)
        message = tuple(_after(value, later) for value in message)
        result = action(unit, state, *message)
        state, *sent = result if message else (result,)
        written = [] if state.grads is None else jax.tree.leaves(state.grads.layers)
        results = map(_probe, (*sent, *written))
        over = io_callback(
            finish, _STAMP, unit.stage, unit.microbatch, start, replica, *results
        )
        state = state._replace(loss=_after(state.loss, over))
        return (state, *(_after(value, over) for value in sent)) if message else state

    return run


def _after(value: jax.Array, over: jax.Array) -> jax.Array:
    """The value, plus a 0 that only the callback knows."""
    return value + over.astype(value.dtype)


def _probe(value: jax.Array) -> jax.Array:
    """One number of an array: computed once the array is."""
    return value[(0,) * value.ndim] if value.size else jnp.zeros((), value.dtype)
