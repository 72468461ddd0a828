"""A chunk from calls of a kernel without a prefix: exact on a stand-in; cuDNN's calls are right."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.ops.attention import Prefix, Scoring, cudnn, dense
from seq1f1b_jax.ops.attention.parts import Kernel, make_backend, parts_of

CASES = {  # name: (Tq, offset, window)
    "no prefix": (5, 0, None),
    "prefix": (5, 7, None),
    "window ends in the chunk": (8, 20, 3),
    "window as long as the chunk": (8, 20, 8),
    "window one longer than the chunk": (8, 20, 9),
    "window ends in the prefix": (6, 20, 17),
    "window ends before the prefix for early queries": (6, 9, 13),
    "prefix shorter than the window": (9, 2, 5),
    "window over all but one key": (6, 9, 14),
    "window over all": (6, 9, 15),
    "window of one": (6, 9, 1),
    "window of two": (6, 1, 2),
    "one token": (1, 9, 4),
}


def probabilities(q, k, lse, *, scale, causal, window):
    """`[B, Hq, Tq, S]`; normalised by `lse` where it is given. Masks are top-left aligned."""
    k = jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    scores = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k)
    query, key = np.mgrid[: q.shape[1], : k.shape[1]]
    mask = (key <= query) | (not causal)
    mask &= query - key < (window or q.shape[1] + k.shape[1])
    scores = jnp.where(mask, scores, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=-1) if lse is None else lse
    return jnp.exp(scores - lse[..., None]), lse


def forward(q, k, v, **options):
    p, lse = probabilities(q, k, None, **options)
    return jnp.einsum("bhqk,bkhd->bqhd", p, jnp.repeat(v, q.shape[2] // k.shape[2], axis=2)), lse


def backward(q, k, v, out, lse, dout, *, scale, causal, window):
    p, _ = probabilities(q, k, lse, scale=scale, causal=causal, window=window)
    groups = q.shape[2] // k.shape[2]
    wide_k, wide_v = (jnp.repeat(x, groups, axis=2) for x in (k, v))
    delta = jnp.einsum("bqhd,bqhd->bhq", out, dout)[..., None]
    ds = p * (jnp.einsum("bqhd,bkhd->bhqk", dout, wide_v) - delta) * scale
    dq = jnp.einsum("bhqk,bkhd->bqhd", ds, wide_k)
    dk, dv = (jnp.einsum("bhqk,bqhd->bkhd", x, y) for x, y in ((ds, q), (p, dout)))
    dk, dv = (x.reshape(*k.shape[:3], groups, -1).sum(3) for x in (dk, dv))
    return dq, dk, dv


STAND_IN = Kernel(forward, backward)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_parts_are_the_whole(case, x64):
    num_tokens, offset, window = case
    scoring = Scoring(window, scale=0.3)
    draw = np.random.default_rng(0).standard_normal
    queries, keys = (2, num_tokens, 4, 8), (2, offset + num_tokens, 2, 8)
    q, k, v, dout = (jnp.asarray(draw(shape)) for shape in (queries, keys, keys, queries))
    backend = make_backend("stand-in", STAND_IN, scoring=scoring)

    @jax.jit
    def ours(q, k, v, dout):
        prefix = Prefix(k[:, :offset], v[:, :offset]) if offset else None
        chunk = (q, k[:, offset:], v[:, offset:], prefix)
        out, lse = backend.forward(*chunk)
        return out, lse, backend.backward(*chunk, out, lse, dout)

    @jax.jit
    def whole(q, k, v, dout):
        out, lse = dense.forward(q, k, v, offset, scoring=scoring)
        return out, lse, *dense.backward(q, k, v, offset, out, lse, dout, scoring=scoring)

    out, lse, grads = ours(q, k, v, dout)
    expected = dict(zip(("out", "lse", "dq", "dk", "dv"), whole(q, k, v, dout), strict=True))
    found = {"out": out, "lse": lse, "dq": grads.dq}
    before = grads.prefix or Prefix(grads.dk[:, :0], grads.dv[:, :0])
    for name, parts in (("dk", (before.k, grads.dk)), ("dv", (before.v, grads.dv))):
        joined = jnp.concatenate(parts, axis=1)
        hidden = expected[name].shape[1] - joined.shape[1]
        found[name] = jnp.pad(joined, ((0, 0), (hidden, 0), (0, 0), (0, 0)))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("window", [None, 5, 12, 24])
def test_no_part_computes_what_the_window_hides(window):
    """Scores inside the masks of all parts are the visible ones, each once."""
    num_tokens, offset = 12, 40
    seen = np.zeros((num_tokens, offset + num_tokens), int)
    for part in parts_of(num_tokens, offset, window):
        keys = part.keys or slice(offset, None)
        block = seen[part.queries, keys]
        query, key = np.mgrid[: block.shape[0], : block.shape[1]]
        mask = (key <= query) | (not part.causal)
        mask &= query - key < (part.window or 1000)
        block += mask[::-1, ::-1] if part.reverse else mask
    query, key = np.mgrid[:num_tokens, : offset + num_tokens]
    behind = offset + query - key
    assert np.array_equal(seen, (behind >= 0) & (behind < (window or 1000)))


def test_documents_are_refused():
    q, starts = jnp.ones((1, 2, 1, 8)), jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(ValueError, match="no mask for documents.*xla_blockwise"):
        make_backend("stand-in", STAND_IN).forward(q, q, q, None, starts)


CALL = r'@(__cudnn\S+)\((.*?)\).*backend_config = "(.*?)"(, .*?)( loc|$)'


def custom_calls(function):
    """Target, configuration, and types with layouts of every call that CUDA would be given."""
    names = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
    shapes = [
        jax.ShapeDtypeStruct((1, 256, heads, 64), jnp.bfloat16) for heads in (4, 2, 2, 4)
    ]
    exported = jax.export.export(
        jax.jit(function), platforms=["cuda"], disabled_checks=allowed
    )(*shapes)
    calls = []
    for line in exported.mlir_module().splitlines():
        if found := re.search(CALL, line):
            target, operands, config, types, _ = found.groups()
            calls.append((target, operands, json.loads(config.replace("\\22", '"')), types))
    return calls


@pytest.mark.parametrize(
    ("causal", "window"),
    [(True, None), (True, 100), (False, None)],
    ids=["own", "window", "prefix"],
)
def test_the_calls_are_those_of_jax(causal, window, monkeypatch):
    theirs = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(theirs, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(theirs, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(theirs, "is_cuda_compute_capability_equal", lambda _: False)

    def jax_attention(q, k, v):
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation="cudnn",
            local_window_size=None if window is None else (window - 1, 0),
        )

    def expected(q, k, v, dout):
        out, pull = jax.vjp(jax_attention, q, k, v)
        return out, pull(dout)

    def ours(q, k, v, dout):
        options = {"scale": q.shape[-1] ** -0.5, "causal": causal, "window": window}
        out, lse = cudnn.forward(q, k, v, **options)
        return out, cudnn.backward(q, k, v, out, lse, dout, **options)

    found = custom_calls(ours)
    assert [call[0] for call in found] == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert found == custom_calls(expected)
