"""The same model without a pipeline: whole sequences through one scan over layers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.attention import get_backend
from seq1f1b_jax.pipeline.stage import Params, Stage, window_of


class Cache(NamedTuple):
    """Keys and values of all layers, each `[num_layers, B, T, Hkv, D]` in the compute dtype."""

    keys: Float[Array, "L B T Hkv D"]
    values: Float[Array, "L B T Hkv D"]


def forward(
    stage: Stage, params: Params, *, tokens: Int[Array, "B T"], attention: str = "xla_blockwise"
) -> tuple[Float[Array, "B T d"], Cache]:
    """Input of the head for every token, and the keys and values that later tokens look back at.

    Args:
      stage: the model.
      params: its parameters, in the dtype to compute in.
      tokens: token ids below `vocab_size`.
      attention: name of an attention backend.
    """
    platform = jax.default_backend()
    attend = get_backend(attention, platform=platform, window=window_of(stage)).forward
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    context = stage.context(positions)

    def layer_step(x, layer):
        q, k, v = stage.pre(layer, x, context)
        out, _ = attend(q, k, v, 0)
        return stage.post(layer, x, out), (k, v)

    x = stage.embed(params.first, jnp.take(params.embedding, tokens, axis=0), positions)
    y, (keys, values) = jax.lax.scan(layer_step, x, params.layers)
    return stage.final(params.last, y), Cache(keys, values)


def head(params: Params, y: Float[Array, "... d"]) -> Float[Array, "... vocab_size"]:
    """Logits in float32 (float64 for float64 input) from the input of the head."""
    table = params.embedding if params.head is None else params.head
    dtype = jnp.promote_types(jnp.float32, y.dtype)
    return jnp.einsum("...d,vd->...v", y, table, preferred_element_type=dtype)


def logits(
    stage: Stage, params: Params, tokens: Int[Array, "B T"], *, attention: str = "xla_blockwise"
) -> Float[Array, "B T vocab_size"]:
    """Logits of every next token; the slow obvious twin of the pipeline and of the cache.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from seq1f1b_jax.models import build_stage
      >>> stage = build_stage("gpt", preset="tiny")
      >>> params = jax.jit(stage.init)(jax.random.key(0))
      >>> jax.jit(logits, static_argnums=0)(stage, params, jnp.zeros((1, 5), jnp.int32)).shape
      (1, 5, 64)
    """
    return head(params, forward(stage, params, tokens=tokens, attention=attention)[0])
