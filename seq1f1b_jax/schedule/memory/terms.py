"""How many bytes a step holds, term by term, from the tick table and the sizes of a layer.

Every buffer that the scan carries is known before anything is traced. Beside them one action at a
time needs scratch. Parameters, optimizer and batch are left out: they are arguments of the
compiled program. The accumulators leave it as its outputs. So the sum is compared with
`temp_size_in_bytes + output_size_in_bytes` of `compiled.memory_analysis()`, in
`docs/design/memory.md`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from seq1f1b_jax.schedule.lowering.table import TickTable
from seq1f1b_jax.schedule.memory.sizes import StepSizes
from seq1f1b_jax.schedule.memory.workspace import workspace


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per device. Every rank allocates what the fullest rank needs.

    Attributes:
      ring: residuals of the units in flight.
      deferred: what `I` has left to `W`, of the units whose backward is half done.
      cache: keys and values of the units in flight.
      prefix_gradients: gradients of the key/value prefix, accumulation dtype.
      loss_gradients: loss gradients by the last stage's output that wait for their backward.
      accumulators: gradients of this rank's parameters, accumulation dtype.
      inbox: messages that arrived before they are used, where there is more than one, and the one
        that waits to be sent, where messages travel late.
      weights: compute copies of this rank's weights, and the tables it gathers, of the vocabulary
        and of learned positions.
      workspace: scratch of the largest single action.
      staging: values on their way from or to host memory.
      host: bytes of host memory; not in the total.
    """

    ring: int
    deferred: int
    cache: int
    prefix_gradients: int
    loss_gradients: int
    accumulators: int
    inbox: int
    weights: int
    workspace: int
    staging: int
    host: int

    @property
    def total(self) -> int:
        """Bytes of the device."""
        return sum(self.terms().values())

    def terms(self) -> dict[str, int]:
        """Bytes of the device by name of the term."""
        return {name: size for name, size in asdict(self).items() if name != "host"}


class Room(NamedTuple):
    """What buffers have room for: in the program as the fullest rank needs it.

    Attributes:
      layers: of a stage.
      arena, deferred, cache, loss: tokens, see `TickTable`.
      prefix_slots, inbox_slots: likewise.
    """

    layers: int
    arena: int
    deferred: int
    cache: int
    loss: int
    prefix_slots: int
    inbox_slots: int


def room_of(table: TickTable, layers_per_stage: Sequence[int]) -> Room:
    """What every rank allocates: the room of the fullest."""
    return Room(
        max(layers_per_stage), table.arena_tokens, table.deferred_tokens, table.cache_tokens,
        table.loss_tokens, max(1, table.num_prefix_slots), table.num_inbox_slots,
    )


def rooms_used(table: TickTable, layers_per_stage: Sequence[int]) -> tuple[Room, ...]:
    """What each rank uses of it at its fullest."""
    last = table.num_ranks - 1
    return tuple(
        Room(
            max(layers_per_stage[rank :: table.num_ranks]), table.arena_tokens_per_rank[rank],
            table.deferred_tokens_per_rank[rank], table.cache_tokens_per_rank[rank],
            table.loss_tokens if rank == last else 0, table.prefix_slots_per_rank[rank],
            table.inbox_slots_per_rank[rank],
        )
        for rank in range(table.num_ranks)
    )


def step_bytes(sizes: StepSizes, room: Room) -> MemoryPrediction:
    """Bytes that buffers of this room take, and what the program needs beside them.

    Accumulators, weights and workspace are those of all ranks: their program is the same.
    """
    host_layers = min(sizes.num_host_layers, room.layers)
    device_layers = room.layers - host_layers
    waiting = [
        tokens * sum(sizes.per_token(value) * value.itemsize for value in values)
        for values, tokens in ((sizes.residuals, room.arena), (sizes.deferred, room.deferred))
    ]  # bytes of a layer
    kv = room.layers * sizes.num_sequences * sizes.num_kv_heads * sizes.kv_dims
    prefix = sum(sizes.lengths[:-1]) if sizes.train else 0
    per_token = sizes.message // sizes.itemsize // max(sizes.lengths)
    grads = sizes.gradients if sizes.train else 0
    return MemoryPrediction(
        ring=device_layers * waiting[0],
        deferred=device_layers * waiting[1],
        cache=kv * room.cache * sizes.itemsize,
        prefix_gradients=kv * room.prefix_slots * prefix * sizes.wide,
        loss_gradients=room.loss * per_token * sizes.itemsize,
        accumulators=grads * sizes.wide,
        inbox=max(0, room.inbox_slots - 1 + sizes.late) * sizes.message,
        weights=_weight_copies(sizes),
        workspace=workspace(sizes),
        staging=2 * sizes.copied()[0] if host_layers else 0,
        host=sum(host_layers * size for size in waiting),
    )


def _weight_copies(sizes: StepSizes) -> int:
    """Copies made once per step: casts, gathered tables, and layers taken out of their stack.

    In float32 nothing is cast, and a loop reads the layers where they are.
    """
    gathered = sizes.num_ranks > 1 or sizes.cast
    weights = sizes.rank_weights if sizes.cast else 0
    if sizes.unrolled and sizes.rank_layers > 1 and not sizes.cast:
        weights = sizes.rank_layers * sizes.layer_weights
    return (weights + (sizes.table_values if gathered else 0)) * sizes.itemsize
