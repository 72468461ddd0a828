"""What a chunk of a sequence costs to compute, in floating-point operations.

A token costs the same at every position, except in attention: the query at position i sees i+1
keys, fewer where a window or the boundaries of documents mask some. So later chunks cost more, and
chunks of equal cost get shorter along the sequence.

    matmul, per token       2*in*out forward, twice that backward (input and weight gradients)
    attention, per pair     4*D per query head forward (2 matmuls), 10*D backward (5 matmuls)
    head, per token         3 * 2*d*V, all in the forward: loss, its gradient and the weight's

Elementwise work, norms, lookups and communication are left out: they grow with the tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.simulation.durations import Costs, TrainedWeights, mean_over_layers

RECOMPUTE_POLICIES = ("none", "selective", "matmuls", "full")
FLOP_CONVENTIONS = ("model", "published", "square")
"""How the FLOPs of a step are counted, none with what is recomputed: `model` the pairs of a query
and a key that it sees; `published`, as the Seq1F1B paper's code counts, half of the square and the
lookup of the embedding as if it were a matmul; `square`, as some vendors count, all pairs."""
_SIZES = ("model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "vocab_size")


@dataclass(frozen=True)
class StageCost:
    """Sizes of a model, and from them the cost of a chunk on each stage. All are plain integers.

    Calling it gives the cost that `balanced_lengths` balances: forward plus backward on the stage
    that holds the chunk longest, since that stage sets the pace of the pipeline.

    Attributes:
      model_dim: width d of the residual stream.
      num_heads: query heads.
      num_kv_heads: key/value heads; fewer than `num_heads` for grouped queries.
      head_dim: width D of a head.
      mlp_dim: hidden width of the MLP; of experts, of all that a token goes through.
      gated: whether the MLP has a gate, three matmuls instead of two.
      vocab_size: rows V of the head.
      layers_per_stage: layers of each stage along the model.
      num_sequences: sequences in a microbatch; all costs are proportional to it.
      recompute: `none` or `selective`, which recompute no matmul; `matmuls` and `full`, which run
        the forward of the layers again in the backward, without and with attention.
      windows: sliding-window size of each layer along the model, or one for all; `None`: a query
        sees all keys before it.
      visible_keys: `[seq_len]`, keys that the query at each position sees, on average over packed
        documents and layers; `None`: what causality and the windows leave.
      num_layer_params: that a token meets, for `model_flops`; `None`: only matmul weights.
      trained: adapters, and weights whose gradients are computed; `None`: no adapters, all weights.

    Raises:
      ValueError: a size is below 1, the heads do not divide, or the policy is unknown.

    Example:
      >>> from seq1f1b_jax.schedule import StageCost
      >>> cost = StageCost(model_dim=256, num_heads=4, num_kv_heads=4, head_dim=64, mlp_dim=1024,
      ...                  gated=False, vocab_size=256, layers_per_stage=(2, 2))
      >>> cost(start=512, length=512) > cost(start=0, length=512)
      True
    """

    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    gated: bool
    vocab_size: int
    layers_per_stage: tuple[int, ...]
    num_sequences: int = 1
    recompute: str = "selective"
    windows: tuple[int | None, ...] = (None,)
    visible_keys: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    num_layer_params: int | None = None
    trained: TrainedWeights | None = None

    @classmethod
    def of(cls, stage: Any, layers_per_stage: tuple[int, ...], **options: Any) -> "StageCost":
        """The cost of a `Stage`; the options are fields that it lacks, or other values for them."""
        sizes = {name: getattr(stage, name) for name in (*_SIZES, "gated") if name not in options}
        if "mlp_dim" in sizes:
            sizes["mlp_dim"] *= getattr(stage, "experts_per_token", 0) or 1
        return cls(layers_per_stage=layers_per_stage, **sizes, **options)

    def __post_init__(self) -> None:
        """Refuse sizes that no model can have."""
        for name in (*_SIZES, "num_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.layers_per_stage or min(self.layers_per_stage) < 1:
            raise ValueError(
                f"layers_per_stage={self.layers_per_stage} must give every stage at least 1 layer"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}"
            )
        if len(self.windows) not in (1, sum(self.layers_per_stage)):
            raise ValueError(
                f"windows of {len(self.windows)} layers for {sum(self.layers_per_stage)}; give one "
                "for each layer, or one for all"
            )
        if self.recompute not in RECOMPUTE_POLICIES:
            raise ValueError(
                f"recompute={self.recompute!r} must be one of {', '.join(RECOMPUTE_POLICIES)}"
            )

    @property
    def num_stages(self) -> int:
        """Stages along the model."""
        return len(self.layers_per_stage)

    @property
    def window(self) -> int | None | tuple[int | None, ...]:
        """The window of all layers, or that of each."""
        return self.windows[0] if len(self.windows) == 1 else self.windows

    @property
    def layer_weights(self) -> int:
        """Matmul weights of one layer: query and output, key and value, MLP, adapters."""
        projections = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim
        whole = self.model_dim * (projections + (3 if self.gated else 2) * self.mlp_dim)
        return whole + (0 if self.trained is None else self.trained.adapters)

    @property
    def trained_weights(self) -> int:
        """Those of them whose gradients are computed."""
        return self.layer_weights if self.trained is None else self.trained.layer

    @property
    def trains_head(self) -> bool:
        """Whether the head's gradient is."""
        return self.trained is None or self.trained.head

    def __call__(self, start: int, length: int) -> float:
        """Cost of a chunk: the most, over stages, of its forward and backward together.

        Args:
          start: first token of the chunk.
          length: tokens of the chunk.

        Returns:
          Floating-point operations.
        """
        alike = len(self.windows) == 1
        stages = range(1 if alike else self.num_stages)
        layers = [sum(self._layer(stage, start, length)) for stage in stages]
        layers *= self.num_stages if alike else 1
        costs = [cost * n for cost, n in zip(layers, self.layers_per_stage, strict=True)]
        return max(*costs, costs[-1] + self._head(length))

    def forward(self, stage: int, *, start: int, length: int) -> float:
        """Cost of the forward of a chunk on one stage, the head included on the last."""
        head = self._head(length) if stage == self.num_stages - 1 else 0
        return self.layers_per_stage[stage] * self._layer(stage, start, length)[0] + head

    def backward(self, stage: int, *, start: int, length: int) -> float:
        """Cost of the backward of a chunk on one stage, what it recomputes included."""
        return self.layers_per_stage[stage] * self._layer(stage, start, length)[1]

    def forward_costs(self, chunk_lengths: Sequence[int]) -> NDArray[np.int64]:
        """Cost of every forward, `[num_stages, num_chunks]`, as `simulate` takes it."""
        return self._costs(self.forward, chunk_lengths)

    def backward_costs(self, chunk_lengths: Sequence[int]) -> NDArray[np.int64]:
        """Cost of every backward, `[num_stages, num_chunks]`, as `simulate` takes it."""
        return self._costs(self.backward, chunk_lengths)

    def costs(self, chunk_lengths: Sequence[int]) -> Costs:
        """Cost of every action, as `simulate` takes it; a `W` is the matmuls of one gradient."""

        def weights(stage: int, *, start: int, length: int) -> int:
            matmuls = 2 * self.num_sequences * length * self.trained_weights
            return self.layers_per_stage[stage] * matmuls

        return Costs(
            forward=self.forward_costs(chunk_lengths),
            backward=self.backward_costs(chunk_lengths),
            weights=self._costs(weights, chunk_lengths),
        )

    def model_flops(self, *, num_tokens: float, num_pairs: float) -> float:
        """Model FLOPs of a step, forward and backward: nothing that is recomputed or padded.

        A weight takes part in one multiply-add per token forward and two backward: 6 FLOPs. A query
        and a key that it sees are `4*D` FLOPs per query head forward and twice that backward.

        Args:
          num_tokens: tokens that the step trains on.
          num_pairs: pairs of a query and a key that it sees; `T (T + 1) / 2` in a sequence of `T`.

        Example:
          >>> from seq1f1b_jax.schedule import StageCost
          >>> cost = StageCost(model_dim=256, num_heads=4, num_kv_heads=4, head_dim=64,
          ...                  mlp_dim=1024, gated=False, vocab_size=256, layers_per_stage=(2, 2))
          >>> flops = cost.model_flops(num_tokens=512, num_pairs=cost.pairs(512))
          >>> f"{flops / 0.5:.3e} FLOPs per second in a step of half a second"
          '2.296e+10 FLOPs per second in a step of half a second'
        """
        num_layers = sum(self.layers_per_stage)
        params = self.num_layer_params
        params = num_layers * self.layer_weights if params is None else params
        attention = 12 * num_pairs * self.num_heads * self.head_dim * num_layers
        head = self.vocab_size * self.model_dim
        own = params + head  # whose gradients are computed
        if self.trained is not None:
            own = num_layers * self.trained_weights + head * self.trains_head
        return (4.0 * (params + head) + 2.0 * own) * num_tokens + attention

    def step_flops(self, convention: str, *, seq_len: int, num_sequences: int) -> float:
        """FLOPs of a step on whole sequences, as one of `FLOP_CONVENTIONS` counts them.

        Raises:
          ValueError: the convention is unknown.

        Example:
          >>> from seq1f1b_jax.schedule import StageCost
          >>> cost = StageCost(model_dim=256, num_heads=4, num_kv_heads=4, head_dim=64,
          ...                  mlp_dim=1024, gated=False, vocab_size=256, layers_per_stage=(2, 2))
          >>> model, square = (cost.step_flops(name, seq_len=4096, num_sequences=1)
          ...                  for name in ("model", "square"))
          >>> round(square / model, 3)
          1.566
        """
        tokens, pairs = num_sequences * seq_len, num_sequences * self.pairs(seq_len)
        if convention == "model":
            return self.model_flops(num_tokens=tokens, num_pairs=pairs)
        if convention == "published":
            lookup = 6.0 * tokens * self.model_dim * self.vocab_size
            return self.model_flops(num_tokens=tokens, num_pairs=tokens * seq_len / 2) + lookup
        if convention == "square":
            return self.model_flops(num_tokens=tokens, num_pairs=tokens * seq_len)
        raise ValueError(
            f"FLOP convention {convention!r} is unknown; use one of {', '.join(FLOP_CONVENTIONS)}"
        )

    def _costs(self, cost: Callable[..., int], chunk_lengths: Sequence[int]) -> NDArray[np.int64]:
        starts = np.cumsum([0, *chunk_lengths[:-1]]).tolist()
        return np.array(
            [
                [cost(stage, start=s, length=n) for s, n in zip(starts, chunk_lengths, strict=True)]
                for stage in range(self.num_stages)
            ],
            np.int64,
        )

    def _layer(self, stage: int, start: int, length: int) -> tuple[float, float]:
        """Forward and backward of one layer of a stage, on average over its layers."""
        tokens = self.num_sequences * length
        windows = self._windows_of(stage)
        pairs = self.pairs(start + length, windows) - self.pairs(start, windows)
        pairs = self.num_sequences * pairs
        matmuls = 2 * tokens * self.layer_weights
        pair_dim = pairs * self.num_heads * self.head_dim
        forward = matmuls + 4 * pair_dim
        backward = matmuls + 2 * tokens * self.trained_weights + 10 * pair_dim
        again = {"matmuls": matmuls, "full": forward}
        return forward, backward + again.get(self.recompute, 0)

    def _windows_of(self, stage: int) -> tuple[int | None, ...]:
        if len(self.windows) == 1:
            return self.windows
        first = sum(self.layers_per_stage[:stage])
        return self.windows[first : first + self.layers_per_stage[stage]]

    def pairs(self, num_queries: int, windows: Sequence[int | None] | None = None) -> float:
        """Pairs of a query and a key that it sees, of the first queries of a sequence.

        Args:
          num_queries: queries.
          windows: of the layers to average over; `None`: of all.
        """
        if self.visible_keys is not None:
            return float(self._seen[num_queries])

        def within(window: int | None) -> int:
            # Query i sees i+1 keys, at most the window. 4 queries, window 3: 1 + 2 + 3 and 3.
            rising = num_queries if window is None else min(num_queries, window)
            return rising * (rising + 1) // 2 + (num_queries - rising) * rising

        return mean_over_layers(self.windows if windows is None else windows, within)

    @cached_property
    def _seen(self) -> NDArray[np.float64]:
        return np.concatenate([[0.0], np.cumsum(self.visible_keys)])

    def _head(self, length: int) -> int:
        """Logits, their gradient to the input and to the table, all on the forward."""
        table = self.model_dim * self.vocab_size
        return (2 + self.trains_head) * 2 * self.num_sequences * length * table
