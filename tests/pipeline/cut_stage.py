"""The user's own model with layers cut over devices: an example, and what tests train."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from seq1f1b_jax.ops.tensor import ONE_DEVICE, TensorAxis
from tests.pipeline.own_stage import OwnStage, normalise


@dataclass(frozen=True)
class CutStage(OwnStage):
    """The same model; its sizes are one device's."""

    tensor: TensorAxis = ONE_DEVICE

    def shard(self, tensor: TensorAxis) -> "CutStage":
        sizes = ("num_heads", "num_kv_heads", "mlp_dim")
        cut = {name: getattr(self, name) // tensor.size for name in sizes}
        return replace(self, tensor=tensor, **cut)

    def pre(self, layer, x, context):
        h = self.tensor.enter(lambda x: normalise(x) * layer["scale"], x)
        heads = [(h @ layer[n]).reshape(*h.shape[:2], -1, self.head_dim) for n in "qkv"]
        return tuple(heads)

    def post(self, layer, x, attended):
        x = x + self.tensor.leave(attended.reshape(*attended.shape[:2], -1) @ layer["o"])
        h = self.tensor.enter(normalise, x)
        return x + self.tensor.leave(jnp.square(jax.nn.relu(h @ layer["up"])) @ layer["down"])
