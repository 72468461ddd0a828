"""What a layer of a built-in family keeps of a chunk, in plain numbers.

Widths per token, on one of `t` devices of `tensor` (own: of its own tokens only, where the devices
share them):

    d own       the layer's input, what the MLP's norm reads
    Hq*D/t      queries, attention's output
    Hq/t        log-sum-exp, in the accumulation dtype
    F/t         inputs of the MLP's activation: one of GELU, two of SwiGLU
    Hq*D/t, Hk*D/t  queries and keys before their norm, where they have one
    d own       what is added after attention and the MLP, before its norm, where it has one
    k, k*F/t    with k experts per token: their weights and numbers, and of each pair what is F/t
    more with recompute=none: outputs of norms and one more F/t, and the norms' statistics
"""

from typing import NamedTuple

from seq1f1b_jax.plan.model.shape import EXPERTS, ROUTER, ModelShape
from seq1f1b_jax.schedule.memory.sizes import Value

HEADS_IN = ("attention.query", "attention.key", "attention.value")
INDEX = 4
"""Bytes of an expert's number."""


class Tokens(NamedTuple):
    """Of which tokens a value is, on one device.

    Attributes:
      num_sequences: sequences of a microbatch.
      length: tokens of the chunk.
      parts: devices that share the residual stream's tokens.
      groups: of tokens, that a layer works on one after the other.
      itemsize: bytes of an activation.
      wide: bytes of an accumulated number.
    """

    num_sequences: int
    length: int
    parts: int = 1
    groups: int = 1
    itemsize: int = 2
    wide: int = 4


def residuals(shape: ModelShape, policy: str, num_tensor: int, tokens: Tokens) -> tuple[Value, ...]:
    """What a layer keeps of a chunk for its backward, on one device."""
    own = tokens.num_sequences * (tokens.length // tokens.parts)
    width = tokens.num_sequences * tokens.length
    heads, item = shape.num_heads // num_tensor, tokens.itemsize
    x = Value(own * shape.model_dim, item)
    query = out = Value(width * heads * shape.head_dim, item)
    lse = Value(width * heads, tokens.wide)
    if policy == "full":
        return (x,)
    if policy == "matmuls":
        return (x, out, lse)
    stored = (x, query, out, lse)
    stream = Value(x.size // tokens.groups, item)
    inner = _inner(shape, num_tensor, tokens)
    before = _before_qk_norm(shape, num_tensor, tokens)
    after = shape.norm_placement != "before"
    adapter = Value(width // tokens.groups * shape.lora.rank, item)
    adapters = (adapter,) * shape.lora.num_adapters
    if policy == "selective":
        raw = before[:2]
        inside = (*raw, *[stream] * (2 if after else 1), *inner)
        return stored + tokens.groups * (*inside, *adapters)
    statistic = Value(own // tokens.groups, tokens.wide)
    norms = {"before": 2, "after": 2, "both": 4}[shape.norm_placement]
    statistics = [statistic] * norms * (2 if shape.centred else 1)
    streams = {"before": 3, "after": 3, "both": 5}[shape.norm_placement]
    # what only gradients of frozen weights would read
    streams -= shape.norm_placement != "after" and not shape.wants_input(*HEADS_IN)
    if shape.num_experts:
        product = ()
    else:
        streams -= not shape.wants_input("mlp.gate", "mlp.up")
        product = inner[:1] * shape.wants_input("mlp.down")
    inside = (*before, *[stream] * streams, *statistics, *inner, *product, *adapters)
    if tokens.groups > 1:  # its own part of the input and of attention's output
        inside = (*inside, stream, Value(query.size // tokens.groups, item))
    return stored + tokens.groups * inside


def _inner(shape: ModelShape, num_tensor: int, tokens: Tokens) -> tuple[Value, ...]:
    """Inputs of the MLP's activation; of experts, too, which a token has, with which weight."""
    width = tokens.num_sequences * tokens.length // tokens.groups
    if not shape.num_experts:
        mlp = Value(width * shape.mlp_dim // num_tensor, tokens.itemsize)
        return (mlp,) * (2 if shape.gated else 1)
    pairs = width * shape.experts_per_token
    mlp = Value(pairs * shape.mlp_dim // num_tensor, tokens.itemsize)
    return (mlp, mlp, Value(pairs, tokens.wide), Value(pairs, INDEX))


def _before_qk_norm(shape: ModelShape, num_tensor: int, tokens: Tokens) -> tuple[Value, ...]:
    """Queries and keys before their norm, and its statistics of both."""
    if shape.qk_norm == "none":
        return ()
    width = tokens.num_sequences * tokens.length // tokens.groups
    heads = (shape.num_heads // num_tensor, shape.kv_heads(num_tensor))
    raw = [Value(width * count * shape.head_dim, tokens.itemsize) for count in heads]
    counts = heads if shape.qk_norm == "head" else (1, 1)
    return (*raw, *(Value(width * count, tokens.wide) for count in counts))


def deferred(shape: ModelShape, policy: str, num_tensor: int, tokens: Tokens) -> tuple[Value, ...]:
    """What the `I` of a layer leaves to its `W`, on one device."""
    width, item = tokens.num_sequences * tokens.length, tokens.itemsize
    heads = shape.num_heads // num_tensor
    query = Value(width * heads * shape.head_dim, item)
    key = Value(width * shape.kv_heads(num_tensor) * shape.head_dim, item)
    mlp = Value(width * shape.mlp_dim // num_tensor, item)
    x = Value(width * shape.model_dim, item)
    outputs = {"attention.query": query, "attention.key": key, "attention.value": key}
    outputs["attention.output"] = x
    if not shape.num_experts:
        outputs |= dict.fromkeys(("mlp.gate", "mlp.up") if shape.gated else ("mlp.up",), mlp)
        outputs["mlp.down"] = x
    own = [value for path, value in outputs.items() if shape.wants_input(path)]
    adapter = Value(width * shape.lora.rank, item)
    own += [adapter] * shape.lora.num_adapters
    routes, trains = shape.wants_input(ROUTER), shape.wants_input(*EXPERTS)
    inner = _inner(shape, num_tensor, tokens)
    if shape.num_experts:
        own += [Value(width * shape.num_experts, tokens.wide)] * routes
        own += [*inner[:2], x] * trains
    if policy in ("none", "selective"):
        return tuple(own)
    # what the forward, computed again for the input gradients, has made
    own += [query] * (policy == "full" and shape.wants_input("attention.output"))
    if shape.num_experts:
        own += [x] * (routes or trains) + [*inner] * trains
    else:
        own += [x] * shape.wants_input("mlp.gate", "mlp.up")
        own += [mlp] * shape.wants_input("mlp.down")
    read = ["output", "gate", "up"] + ["down"] * (shape.norm_placement != "before")
    read += ["query", "key"] * (shape.qk_norm != "none")
    return (*own, *[adapter] * sum(map(shape.lora.adapts, read)))
