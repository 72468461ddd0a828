"""Causal attention of a chunk over its key/value prefix, behind one contract.

A backend is two explicit functions; nothing differentiates through them:

    forward(q, k, v, prefix, starts=None)                      -> (out, lse)
    backward(q, k, v, prefix, out, lse, dout, starts=None)     -> (dq, dk, dv, prefix gradients)

q `[B, Tq, Hq, D]` are the queries of a chunk, k and v `[B, Tq, Hkv, D]` its keys and values, and
`prefix` those of the tokens before it, `[B, offset, Hkv, D]` each (`Prefix`; `None`: there are
none). Query i sees the prefix and keys `0 ... i` of the chunk. Where sequences hold documents,
starts int32 `[B, Tq]` is the position of the first token of each query's document, and what is
before it is hidden. How scores are made (`Scoring`: a window, a scale, a soft cap, ALiBi) is bound
into the functions. Values may be of another width than keys, `Dv`, as out and dv are then. Query
head h reads key/value head `h // (Hq/Hkv)`. lse `[B, Hq, Tq]` is the natural logarithm of the
softmax denominator, in the accumulation dtype promote(float32, q's dtype). A backward is given any
out and lse of the same scores, such as those merged with other keys, and is exact then, too. out
and dq have q's dtype; dk, dv and the prefix's have that or the accumulation dtype, in which
their reader sums them over chunks.

    contract.py, scoring.py   the types above      choose.py   which backend a program gets
    registry.py   backends by name       dense.py, blockwise.py, cudnn.py with parts.py: backends
"""

from seq1f1b_jax.ops.attention.choose import Heads, choose_backend, for_documents
from seq1f1b_jax.ops.attention.contract import AttentionBackend, ChunkGradients, Prefix
from seq1f1b_jax.ops.attention.registry import BACKENDS, NAMES, get_backend
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring

__all__ = [
    "BACKENDS",
    "NAMES",
    "PLAIN",
    "AttentionBackend",
    "ChunkGradients",
    "Heads",
    "Prefix",
    "Scoring",
    "choose_backend",
    "for_documents",
    "get_backend",
]
