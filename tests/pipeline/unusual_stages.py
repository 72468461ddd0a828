"""Stages that keep the rules in unusual ways."""

import jax
import jax.numpy as jnp

from tests.pipeline.own_stage import OwnStage, normalise


class Flattened(OwnStage):
    """Tokens of all sequences in one dim, as for a library that knows no batches."""

    def post(self, layer, x, attended):
        rows = x.reshape(-1, x.shape[-1])
        rows += attended.reshape(len(rows), -1) @ layer["o"]
        return (rows + jax.nn.gelu(rows @ layer["up"]) @ layer["down"]).reshape(x.shape)


class TokensFirst(OwnStage):
    """Time before batch inside, and einsum over named dims."""

    def pre(self, layer, x, context):
        x = jnp.swapaxes(normalise(x), 0, 1)
        h, d = self.head_dim, self.model_dim
        split = [jnp.einsum("tbd,dhe->bthe", x, layer[n].reshape(d, -1, h)) for n in "qkv"]
        return tuple(split)


class Experts(OwnStage):
    """Each token takes its two best of four slices of the MLP, looked up and summed."""

    def post(self, layer, x, attended):
        x = x + attended.reshape(x.shape) @ layer["o"]
        up = layer["up"].reshape(self.model_dim, 4, -1)
        scores = normalise(x) @ up[:, :, 0]
        weights, chosen = jax.lax.top_k(jax.nn.softmax(scores), 2)
        hidden = jnp.einsum("btd,den->bten", x, up)
        hidden = jnp.take_along_axis(hidden, chosen[..., None], axis=2)
        down = layer["down"].reshape(4, -1, self.model_dim)[chosen]
        return x + jnp.einsum("btkn,btknd,btk->btd", hidden, down, weights)


class SortedExperts(OwnStage):
    """Tokens are brought into the order of their experts and back: read in values only."""

    def post(self, layer, x, attended):
        x = x + attended.reshape(x.shape) @ layer["o"]
        rows = x.reshape(-1, x.shape[-1])
        order = jnp.argsort(jnp.argmax(rows @ layer["up"][:, :4], axis=-1))
        done = jax.nn.relu(rows[order] @ layer["up"]) @ layer["down"]
        return x + jnp.zeros_like(done).at[order].set(done).reshape(x.shape)


class Looped(OwnStage):
    """The MLP in slices, one after the other, under jit and checkpoint."""

    def post(self, layer, x, attended):
        x = x + attended.reshape(x.shape) @ layer["o"]

        @jax.checkpoint
        def add(total, weights):
            up, down = weights
            return total + jax.nn.silu(normalise(x) @ up) @ down, None

        parts = self.mlp_dim // 4
        up = jnp.moveaxis(layer["up"].reshape(self.model_dim, parts, -1), 1, 0)
        return jax.jit(lambda: jax.lax.scan(add, x, (up, layer["down"].reshape(parts, 4, -1)))[0])()


class Learned(OwnStage):
    """Learned positions, and sines of them."""

    def init(self, key):
        params = super().init(key)
        return params._replace(first={"table": 0.1 * jnp.ones((self.mlp_dim, self.model_dim))})

    def embed(self, first, x, positions):
        waves = jnp.sin(positions[..., None] / 10 ** jnp.arange(self.model_dim))
        return x * self.model_dim**0.5 + (first["table"][positions] + waves).astype(x.dtype)


class Tables(OwnStage):
    """Rotary-like tables from `context`, and a dropout whose rate is 0."""

    def context(self, positions):
        angle = positions[..., None] * 0.5 ** jnp.arange(self.head_dim)
        return jnp.cos(angle)[..., None, :], jnp.sin(angle)[..., None, :]

    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, ())
        cos, sin = (table.astype(x.dtype) for table in context)
        return tuple(a * cos + jnp.flip(a, -1) * sin for a in (q, k)) + (v,)

    def post(self, layer, x, attended):
        rate = 0.0
        return super().post(layer, x, attended) / (1 - rate)


class Convolved(OwnStage):
    """A convolution over channels, with a kernel that is one token wide."""

    def final(self, last, y):
        kernel = jnp.ones((1, self.model_dim, self.model_dim), y.dtype)
        mixed = jax.lax.conv_general_dilated(
            y, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return normalise(mixed) * last["scale"]


KEEPS = [Flattened, TokensFirst, Experts, SortedExperts, Looped, Learned, Tables, Convolved]
