"""A user's own model in plain JAX, outside `models/`: an example, and what tests train."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seq1f1b_jax.pipeline import Params


@dataclass(frozen=True)
class OwnStage:
    """Pre-norm transformer: squared-ReLU MLP, no positions, grouped-query heads."""

    num_layers: int = 3
    vocab_size: int = 11
    model_dim: int = 8
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 2
    mlp_dim: int = 32
    tied: bool = False

    def init(self, key) -> Params:
        d, mlp = self.model_dim, self.mlp_dim
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes = {"q": (d, q), "k": (d, kv), "v": (d, kv), "o": (q, d), "up": (d, mlp)}
        shapes |= {"down": (mlp, d), "scale": (d,)}
        keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
        layers = {
            name: 0.3 * jax.random.normal(keys[name], (self.num_layers, *shape)) + (name == "scale")
            for name, shape in shapes.items()
        }
        embedding, head = jax.random.normal(jax.random.fold_in(key, 1), (2, self.vocab_size, d))
        return Params(layers, {}, {"scale": jnp.ones(d)}, embedding, None if self.tied else head)

    def context(self, positions):
        return ()

    def embed(self, first, x, positions):
        return x

    def pre(self, layer, x, context):
        h = normalise(x) * layer["scale"]
        heads = [(h @ layer[n]).reshape(*x.shape[:2], -1, self.head_dim) for n in "qkv"]
        return tuple(heads)

    def post(self, layer, x, attended):
        x = x + attended.reshape(x.shape) @ layer["o"]
        return x + jnp.square(jax.nn.relu(normalise(x) @ layer["up"])) @ layer["down"]

    def final(self, last, y):
        return normalise(y) * last["scale"]


def normalise(x):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5)
