"""One stage's actions as programs of their own, as the executor runs them, without a pipeline.

The stage is one of three, so that a program holds what the first, a middle and the last one do, and
one compilation serves all: `Unit.stage` says which it is. State, units and slots are those of a
lowered plan of three ranks and one microbatch; weights, tokens and stored values are made up.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as Spec

from seq1f1b_jax.ops.axes import TENSOR, axis_size
from seq1f1b_jax.pipeline import PipelineStep
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Inputs, Unit, WeightUnit
from seq1f1b_jax.pipeline.executor.initial import initial_state, state_shapes
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.executor.scan import ACTIONS
from seq1f1b_jax.pipeline.memory import with_loss_block
from seq1f1b_jax.schedule import Op, lower, make_plan
from seq1f1b_jax.schedule.lowering.table import NO_STAGE, OP_CODES
from seq1f1b_jax.schedule.memory.layers import offloaded_layers

NUM_STAGES = 3
FIRST, MIDDLE, LAST = range(NUM_STAGES)
SCALE = 0.02
"""Of weights and stored values."""
STRIDE = 7919
"""From one token to the next."""


class Case(NamedTuple):
    """One program on one stage: what is timed.

    Attributes:
      op: operation.
      chunk: its index.
      stage: `FIRST`, `MIDDLE` or `LAST`.
    """

    op: Op
    chunk: int
    stage: int


@dataclass(frozen=True, eq=False)
class Profiled:
    """What is measured, whatever the cut.

    Attributes:
      step: of the model on one rank, whose mesh may have the axis `tensor`.
      num_layers: of the stage.
      num_sequences: of a microbatch on one device.
      unrolled: whether layers are.
    """

    step: PipelineStep
    num_layers: int
    num_sequences: int
    unrolled: bool

    def program(self, lengths: Sequence[int], *, split: bool) -> Program:
        """The static facts of a stage among three.

        Args:
          lengths: tokens of each chunk.
          split: whether backwards are halves, `I` and `W`.
        """
        plan = make_plan(
            "seq-zb-h1" if split else "seq1f1b", num_ranks=NUM_STAGES, num_microbatches=1,
            num_chunks=len(lengths),
        )
        layout = replace(self.step.layout, layers_per_stage=(self.num_layers,) * NUM_STAGES)
        program = replace(
            self.step.program(self.num_sequences), layout=layout, num_microbatches=1,
            table=lower(plan, tuple(lengths)), unrolled=self.unrolled,
            num_host_layers=offloaded_layers(self.step.options.offload, layout.max_layers),
        )
        return with_loss_block(program)


class Actions:
    """The programs of one cut: compiled one by one, called on a state that they hand on.

    Args:
      profiled: what is measured.
      lengths: tokens of each chunk.
      split: whether backwards are halves.
    """

    def __init__(self, profiled: Profiled, lengths: Sequence[int], *, split: bool) -> None:
        self._mesh, self._program = profiled.step.mesh, profiled.program(lengths, split=split)
        self._compiled: dict[tuple[Op, int], Callable] = {}
        self._units: dict[Case, Unit | WeightUnit] = {}
        self._inputs, self._message, self._state = jax.jit(self._alone(self._fresh))()

    @property
    def ops(self) -> tuple[Op, ...]:
        """Operations of the plan."""
        return self._program.table.ops

    def compile(self, op: Op, chunk: int) -> tuple[Op, int]:
        """Compile one operation on one chunk, for all stages; returns the two."""
        call = jax.jit(self._alone(partial(self._act, op, chunk)), donate_argnums=0)
        unit = self._unit(Case(op, chunk, FIRST))
        lowered = call.lower(self._state, unit, self._message, self._inputs)
        self._compiled[op, chunk] = lowered.compile()
        return op, chunk

    def call(self, case: Case) -> Any:
        """Run an action that was compiled.

        Returns:
          Something to wait for.
        """
        if case not in self._units:
            self._units[case] = self._unit(case)
        call, unit = self._compiled[case.op, case.chunk], self._units[case]
        self._state, sent = call(self._state, unit, self._message, self._inputs)
        return sent

    def cases(self, chunks: Sequence[int]) -> Iterator[Case]:
        """What there is to time on some chunks, in the order of a step: Fs, then backwards."""
        for op in self.ops:
            for chunk in chunks if op is Op.F else reversed(chunks):
                # a `W` has no part beside the layers
                for stage in (MIDDLE,) if op is Op.W else (FIRST, MIDDLE, LAST):
                    yield Case(op, chunk, stage)

    def _act(self, op: Op, chunk: int, state, unit, message, inputs):
        of_chunk = Chunk(self._program, chunk, inputs)
        if op is Op.W:
            state = ACTIONS[op](of_chunk, unit, state)
            return state, state.loss
        return ACTIONS[op](of_chunk, unit, state, message)

    def _unit(self, case: Case) -> Unit | WeightUnit:
        """Where the lowered plan has put what the action works on."""
        table = self._program.table
        if case.op is Op.W:
            columns, kind = table.weights, WeightUnit
            here = (columns.stage != NO_STAGE)[:, case.stage]
        else:
            columns, kind = table.actions, Unit
            here = columns.op[:, case.stage] == OP_CODES[case.op]
        tick = int(np.flatnonzero(here & (columns.chunk[:, case.stage] == case.chunk))[0])
        return kind(*(jnp.int32(getattr(columns, name)[tick, case.stage]) for name in kind._fields))

    def _fresh(self):
        """Weights and tokens, a message, and a state whose stored values are no zeros."""
        program = self._program
        shapes, state = state_shapes(program), initial_state(program)
        ring, keys, values, dy = jax.tree.map(
            varied, (shapes.ring.device, shapes.keys, shapes.values, shapes.dy)
        )
        state = state._replace(
            ring=state.ring._replace(device=ring), keys=keys, values=values, dy=dy
        )
        weights, tables = jax.tree.map(varied, (program.weight_shapes, program.table_shapes))
        count, vocabulary = math.prod(program.batch_shape), program.stage.vocab_size
        tokens = (STRIDE * jnp.arange(count, dtype=jnp.int32) % vocabulary)
        tokens = tokens.reshape(program.batch_shape)
        message = jax.ShapeDtypeStruct(program.message_shape, program.compute_dtype)
        return Inputs(weights, tables, tokens, tokens), varied(message), state

    def _alone(self, function: Callable) -> Callable:
        """On the devices of one rank, each with arrays of its own size."""
        if axis_size(self._mesh, TENSOR) == 1:
            return function
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=Spec(), out_specs=Spec(), check_vma=False
        )


def varied(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Numbers of both signs; zeros where there can be none. Random ones take long to compile."""
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        return jnp.zeros(shape.shape, shape.dtype)
    index = jnp.arange(math.prod(shape.shape), dtype=jnp.float32)
    return (SCALE * jnp.sin(1.7 * index)).astype(shape.dtype).reshape(shape.shape)
