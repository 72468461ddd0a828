"""A decoder-only transformer as a `Stage`: what both families share.

NNX modules are defined per layer and split once into a graph (static) and arrays. The arrays,
stacked over layers, are the parameters; `pre` and `post` merge one layer's arrays into the graph
and call the module. A stage is a frozen dataclass of sizes: hashable, a static argument of `jit`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree import leaves_with_path
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seq1f1b_jax.config import LoraConfig
from seq1f1b_jax.models.blocks import INIT_STD
from seq1f1b_jax.models.lora import NO_ADAPTERS
from seq1f1b_jax.ops.attention import Scoring
from seq1f1b_jax.ops.router import RouterSums
from seq1f1b_jax.ops.tensor import ONE_DEVICE, TensorAxis
from seq1f1b_jax.pipeline.stage import Params, Stage, Tree, active_size

LORA = 0x4C6F5241
"""Folded into a layer's key for its adapters, so that other weights are the same without them."""


@dataclass(frozen=True, kw_only=True)
class Decoder(ABC):
    """Sizes of a decoder and its pure functions; see `seq1f1b_jax.pipeline.stage.Stage`.

    Attributes:
      num_layers, model_dim, num_heads, num_kv_heads, head_dim, mlp_dim, vocab_size: sizes.
      tied: whether the head is the embedding.
      norm_eps: added to a norm's variance.
      window: sliding-window size; `None`: full attention.
      tensor: the mesh axis that layers are sharded over; sizes are then those of one device.
      whole_kv_heads: see `models.blocks.Heads`.
      lora: adapters of the projections (`models.lora`).
    """

    family: ClassVar[str]
    gated: ClassVar[bool]

    num_layers: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    vocab_size: int
    tied: bool
    norm_eps: float
    window: int | None = None
    tensor: TensorAxis = ONE_DEVICE
    whole_kv_heads: int | None = None
    lora: LoraConfig = NO_ADAPTERS

    @property
    def scoring(self) -> Scoring:
        """See `pipeline.stage.scoring_of`."""
        return Scoring(window=self.window)

    def shard(self, tensor: TensorAxis) -> "Decoder":
        """The model of one device along the axis `tensor`: its share of the heads and of the MLP.

        Raises:
          ValueError: the heads or the MLP's width do not divide evenly.
        """
        size = tensor.size
        if self.num_heads % size or self.mlp_dim % size:
            raise ValueError(
                f"{self.num_heads} heads and an MLP of width {self.mlp_dim} cannot be sharded over "
                f"tensor={size} devices; use a --mesh.tensor that divides both"
            )
        if self.num_kv_heads % size and size % self.num_kv_heads:
            raise ValueError(
                f"{self.num_kv_heads} key/value heads cannot be sharded over tensor={size} "
                "devices, nor each be shared by equally many: one number must divide the other"
            )
        shared = size > self.num_kv_heads
        return replace(
            self, num_heads=self.num_heads // size, mlp_dim=self.mlp_dim // size, tensor=tensor,
            num_kv_heads=1 if shared else self.num_kv_heads // size,
            whole_kv_heads=self.num_kv_heads if shared else None,
        )

    @abstractmethod
    def make_layer(self, rngs: nnx.Rngs) -> nnx.Module:
        """One layer: a module with `pre(x, context)` and `post(x, attended)`."""

    @abstractmethod
    def make_first(self, rngs: nnx.Rngs) -> nnx.Module | None:
        """Parameters beside the embedding; `None` for nothing."""

    @abstractmethod
    def make_last(self, rngs: nnx.Rngs) -> nnx.Module:
        """The norm before the head."""

    @abstractmethod
    def context(self, positions: Int[Array, "*B T"]) -> Tree:
        """What layers need of the positions, the same for all layers."""

    def init(self, key: PRNGKeyArray) -> Params:
        """Float32 parameters of a fresh model; layer `i` depends on `(key, i)` only."""
        layers, first, last, embedding, head = (jax.random.fold_in(key, i) for i in range(5))

        def layer(index):
            return _arrays(self.make_layer(_rngs(jax.random.fold_in(layers, index))))

        return Params(
            layers=jax.vmap(layer)(jnp.arange(self.num_layers)),
            first=_arrays(self.make_first(_rngs(first))),
            last=_arrays(self.make_last(_rngs(last))),
            embedding=self._table(embedding),
            head=None if self.tied else self._table(head),
        )

    def embed(
        self, first: Tree, x: Float[Array, "B T d"], positions: Int[Array, "*B T"]
    ) -> Float[Array, "B T d"]:
        """Looked-up embedding rows as they are."""
        return x

    def pre(
        self, layer: Tree, x: Float[Array, "B t d"], context: Tree
    ) -> tuple[Float[Array, "B T Hq D"], Float[Array, "B T Hkv D"], Float[Array, "B T Hkv Dv"]]:
        """One layer before attention."""
        return nnx.merge(self._layer_graph, layer).pre(x, context)

    def post(
        self, layer: Tree, x: Float[Array, "B t d"], attended: Float[Array, "B T Hq Dv"]
    ) -> Float[Array, "B t d"]:
        """One layer after attention."""
        return nnx.merge(self._layer_graph, layer).post(x, attended)

    def routed(
        self, layer: Tree, x: Float[Array, "B t d"], attended: Float[Array, "B T Hq Dv"]
    ) -> tuple[Float[Array, "B t d"], RouterSums]:
        """See `pipeline.stage.routed_post`."""
        return nnx.merge(self._layer_graph, layer).routed(x, attended)

    def final(self, last: Tree, y: Float[Array, "B T d"]) -> Float[Array, "B T d"]:
        """The final norm."""
        return nnx.merge(self._last_graph, last)(y)

    @cached_property
    def _layer_graph(self):
        return _graph(self.make_layer)

    @cached_property
    def _last_graph(self):
        return _graph(self.make_last)

    def _table(self, key):
        return INIT_STD * jax.random.normal(key, (self.vocab_size, self.model_dim), jnp.float32)


def num_params(stage: Stage, *, only_layers: bool = False, only_active: bool = False) -> int:
    """Number of parameters of any stage; nothing is allocated.

    Args:
      stage: the model.
      only_layers: leave out tables, and what is beside them.
      only_active: of experts, count as many as a token goes through.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> num_params(build_stage("llama", preset="7b"))
      6888361984
    """
    params = jax.eval_shape(stage.init, jax.random.key(0))
    found = leaves_with_path(params.layers if only_layers else params)
    return sum(active_size(stage, path, leaf) if only_active else leaf.size for path, leaf in found)


def _rngs(key):
    return nnx.Rngs(params=key, lora=jax.random.fold_in(key, LORA))


def _arrays(module):
    return {} if module is None else nnx.to_pure_dict(nnx.split(module)[1])


def _graph(make) -> Any:
    module = nnx.eval_shape(lambda: make(nnx.Rngs(params=0, lora=0)))
    return nnx.split(module)[0]
