"""Stages that keep the rules in unusual ways."""

import jax
import jax.numpy as jnp
import numpy as np

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


class Declared(OwnStage):
    """A table of positions that is sharded, narrower than the model, beside other leaves."""

    max_positions = 128
    position_tables = ("first.place.narrow",)

    def init(self, key):
        params = super().init(key)
        table = 0.1 * jax.random.normal(key, (self.max_positions, 3))
        return params._replace(first={"place": {"narrow": table}, "wide": jnp.ones((3, 8))})

    def embed(self, first, x, positions):
        waves = jnp.sin(positions)[..., None].astype(x.dtype)
        return x + first["place"]["narrow"] @ first["wide"] * waves


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


class Modulated(OwnStage):
    """Rows of a weight as scale and shift."""

    def post(self, layer, x, attended):
        rows = layer["up"].T[:2]
        scale, shift = rows[0:1], jax.lax.dynamic_slice_in_dim(rows, 1, 1)
        return super().post(layer, x * (1 + scale) + jnp.split(rows, 2)[1] * shift, attended)


class Gated(OwnStage):
    """Gates of the best experts, written and read by the index of their token."""

    def post(self, layer, x, attended):
        rows, (best, chosen) = x.reshape(-1, x.shape[-1]), jax.lax.top_k(x, 2)
        at = jnp.arange(len(x))[:, None, None], jnp.arange(x.shape[1])[None, :, None], chosen
        gates = jnp.zeros_like(x).at[at].set(best) + x.at[at].add(best) * x[at][..., :1]
        gates += jnp.put_along_axis(x, chosen, best, axis=-1, inplace=False)
        at = jnp.arange(len(rows))[:, None], chosen.reshape(-1, 2)
        flat = jnp.zeros_like(rows).at[at].set(best.reshape(-1, 2)) * rows[at][:, :1]
        return super().post(layer, x * (gates + flat.reshape(x.shape)), attended)


class InBlocks(OwnStage):
    """Four blocks of tokens one after the other, to save memory: read in values only."""

    def post(self, layer, x, attended):
        post, pairs = super().post, zip(*(jnp.split(v, 4, 1) for v in (x, attended)), strict=True)
        return jnp.concatenate([post(layer, *pair) for pair in pairs], axis=1)


class MappedBlocks(OwnStage):
    """The same by a loop."""

    def post(self, layer, x, attended):
        blocks = [v.reshape(-1, 1, 32, *v.shape[2:]) for v in (x, attended)]
        post = super().post
        return jax.lax.map(lambda pair: post(layer, *pair), blocks).reshape(x.shape)


class RotaryRows(Flattened):
    """Tables of positions for tokens of all sequences in one dim."""

    def context(self, positions):
        return jnp.cos(positions[..., None] * 0.5 ** jnp.arange(self.head_dim))

    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, ())
        table = jnp.broadcast_to(context, (*x.shape[:2], self.head_dim)).astype(x.dtype)
        turned = q.reshape(-1, *q.shape[2:]) * table.reshape(-1, 1, self.head_dim)
        return turned.reshape(q.shape), k, v


class HalfInside(SortedExperts):
    """A part of it in bfloat16."""

    def post(self, layer, x, attended):
        layer = layer | {"up": layer["up"].astype(jnp.bfloat16), "down": layer["down"]}
        return super().post(layer, x.astype(jnp.bfloat16), attended.astype(jnp.bfloat16)).astype(
            x.dtype
        )


class Masked(OwnStage):
    """Constants that are the same at every token."""

    def final(self, last, y):
        kept, ones = np.ones((y.shape[1], 1), bool), np.ones((y.shape[1], 1), jnp.bfloat16)
        return jnp.where(kept, super().final(last, y) * ones.astype(y.dtype), 0)


KEEPS = [
    Flattened, TokensFirst, Experts, SortedExperts, Looped, Learned, Declared, Tables, Convolved,
    Modulated, Gated, InBlocks, MappedBlocks, RotaryRows, HalfInside, Masked,
]  # fmt: skip
