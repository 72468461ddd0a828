"""The sizes that the bytes of a step follow from."""

from dataclasses import dataclass
from typing import NamedTuple


class Value(NamedTuple):
    """A value of one layer and the first chunk, on one device.

    Attributes:
      size: numbers; they are in proportion to the tokens of the chunk.
      itemsize: bytes of one.
    """

    size: int
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.size * self.itemsize


class Scores(NamedTuple):
    """Attention scores of one head and chunk.

    Attributes:
      largest: of one block.
      alone: of the blocks that are in no loop, together.
      rows: queries of the largest block.
    """

    largest: int
    alone: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """The sizes that the bytes of a step follow from; sizes of a layer are those of one device.

    Attributes:
      platform: of the devices, `cpu` or `gpu`; their compilers hold different scratch.
      lengths: tokens of each chunk.
      num_ranks, stages_per_rank: of the plan.
      splits: whether backwards are split into `I` and `W`.
      late: whether messages travel beside the next tick's action.
      layers_per_stage: layers of every stage along the model.
      num_host_layers: of the largest stage, whose waiting values are in host memory.
      num_sequences: sequences of a microbatch.
      token_parts: devices that share the tokens of the residual stream.
      model_dim, num_heads, num_kv_heads, head_dim: of a layer.
      value_dim: width of a head of values; `None`: `head_dim`.
      vocab_part: rows of a vocabulary table.
      itemsize: bytes of an activation.
      wide: bytes of an accumulated number.
      residuals: what a layer keeps for its backward.
      deferred: what its `I` leaves to its `W`; empty where backwards are whole.
      layer_values: what it would keep if nothing were recomputed.
      scores: of attention, by chunk.
      layer_weights: numbers in a layer's weights.
      expert_weights: of these, numbers in its experts'.
      small_weights: in those of the first and the last stage that are no tables.
      table_values: in the gathered tables.
      gradients: in all accumulators: of what trains.
      trains_head: whether the head has one.
      unrolled: whether every layer has its own part of the program.
      cast: whether weights are cast to a narrower dtype.
      train: whether there are backwards.
      loss_block: tokens whose logits exist at one time; `None`: see `loss_block`.
    """

    platform: str
    lengths: tuple[int, ...]
    num_ranks: int
    stages_per_rank: int = 1
    splits: bool = False
    late: bool = False
    layers_per_stage: tuple[int, ...]
    num_host_layers: int = 0
    num_sequences: int
    token_parts: int = 1
    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int | None = None
    vocab_part: int
    itemsize: int
    wide: int = 4
    residuals: tuple[Value, ...]
    deferred: tuple[Value, ...] = ()
    layer_values: tuple[Value, ...]
    scores: tuple[Scores, ...]
    layer_weights: int
    expert_weights: int = 0
    small_weights: int
    table_values: int
    gradients: int
    trains_head: bool = True
    unrolled: bool = False
    cast: bool = True
    train: bool = True
    loss_block: int | None = None

    @property
    def max_layers(self) -> int:
        """Layers of the largest stage: every stage has room for as many."""
        return max(self.layers_per_stage)

    @property
    def rank_layers(self) -> int:
        """Layers that a rank has room for, over all its stages."""
        return self.stages_per_rank * self.max_layers

    @property
    def rank_weights(self) -> int:
        """Numbers in a rank's weights, without the tables."""
        return self.rank_layers * self.layer_weights + self.small_weights

    @property
    def message(self) -> int:
        """Bytes of a message between stages, of the longest chunk."""
        return self.layer_input(max(self.lengths))

    @property
    def kv_dims(self) -> int:
        """Numbers in one head's key and value together."""
        return self.head_dim + (self.value_dim or self.head_dim)

    def layer_input(self, length: int) -> int:
        """Bytes of a chunk's residual stream."""
        return self.num_sequences * (length // self.token_parts) * self.model_dim * self.itemsize

    def per_token(self, value: Value) -> int:
        """Numbers of a value per token, rounded up."""
        return -(-value.size // self.lengths[0])

    def copied(self) -> tuple[int, int]:
        """Bytes of one layer of the longest chunk that go to the host, and that come back.

        Residuals come back once for a `B`, and for an `I` and its `W` each.
        """
        longest = max(self.lengths)
        ring, deferred = (
            sum(value.nbytes * longest // self.lengths[0] for value in values)
            for values in (self.residuals, self.deferred)
        )
        return ring + deferred, (2 if self.splits else 1) * ring + deferred
