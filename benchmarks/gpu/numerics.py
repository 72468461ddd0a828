"""Is each attention right on this device? Errors against `xla_dense`, borders, same bits twice."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import report
from benchmarks.gpu.run import Run
from seq1f1b_jax.ops.attention import (
    BACKENDS,
    Heads,
    Prefix,
    Scoring,
    choose_backend,
    cudnn,
    get_backend,
)

TAIL = 128
"""Keys behind the prefix in its cache, which no query may see."""

NAMES = ("out", "lse", "dq", "dk", "dv", "prefix dk", "prefix dv")


def reason_against_cudnn(head_dim: int) -> str | None:
    """Why the kernels cannot run on this device in bfloat16; `None`: they can."""
    device = jax.devices()[0]
    return cudnn.reason_against(
        dtype=jnp.bfloat16, head_dim=head_dim, platform=device.platform,
        capability=getattr(device, "compute_capability", None),
    )  # fmt: skip


def submit(run: Run) -> None:
    """Compile forward and backward of every backend at every shape."""
    for shape, window in _cases(run):
        for backend in BACKENDS:
            if backend == "cudnn" and reason_against_cudnn(shape[-1]):
                continue
            lower = partial(_lower, backend, shape, window)
            run.programs.submit(_name(backend, shape, window), lower)


def measure(run: Run) -> None:
    """Compare; rows under `numerics`, the largest error of each backend under `numerics_worst`."""
    rows: list[dict[str, Any]] = []
    run.values["numerics"] = rows
    for shape, window in _cases(run):
        arguments = _draw(shape)
        name = _name("xla_dense", shape, window)
        wide = [value.astype(jnp.float32) for value in arguments]
        wanted = run.case(name, lambda n=name, w=wide: _arrays(run.programs.get(n).call(*w)))
        for backend in BACKENDS:
            if backend == "xla_dense" or wanted is None:
                continue
            row = {"backend": backend, "shape": list(shape), "window": window}
            if backend == "cudnn" and (reason := reason_against_cudnn(shape[-1])):
                rows.append(row | {"skipped": reason})
                continue
            name = _name(backend, shape, window)
            found = run.case(name, lambda n=name, a=arguments, w=wanted: _row(run, n, a, w))
            if found:
                rows.append(row | found)
    measured = [row for row in rows if "worst" in row]
    run.values["numerics_worst"] = {
        backend: max((r["worst"] for r in measured if r["backend"] == backend), default=None)
        for backend in BACKENDS if backend != "xla_dense"
    }  # fmt: skip
    chosen = choose_backend("auto", jax.devices()[:1], Heads(8, 2, 128, "bfloat16"))
    run.values["auto"] = {"chosen": chosen.name, "why": chosen.why}
    run.values["cudnn_heads_of_256"] = reason_against_cudnn(256)
    report.show("numerics: relative to the largest entry of xla_dense in float32", rows)
    print(run.values["auto"], flush=True)


def _cases(run: Run):
    shapes = run.sizes.numerics
    return [(s, None) for s in shapes] + [(shapes[-1], window) for window in run.sizes.windows]


def _name(backend: str, shape, window) -> str:
    return f"numerics {backend} {'x'.join(map(str, shape))} window {window}"


def _shapes(shape):
    batch, queries, offset, heads, kv_heads, dim = shape
    q, own = ((batch, queries, number, dim) for number in (heads, kv_heads))
    cache = (batch, offset + TAIL, kv_heads, dim)
    return q, own, own, cache, cache, q


def _draw(shape) -> list[jax.Array]:
    draw = np.random.default_rng(0).standard_normal
    return [jnp.asarray(draw(found), jnp.bfloat16) for found in _shapes(shape)]


def _lower(backend: str, shape, window):
    oracle = backend == "xla_dense"
    dtype = jnp.float32 if oracle else jnp.bfloat16
    shapes = [jax.ShapeDtypeStruct(found, dtype) for found in _shapes(shape)]
    both = partial(_both, backend, shape[2], window)
    if not oracle:
        return jax.jit(both).lower(*shapes)
    with jax.default_matmul_precision("highest"):
        return jax.jit(both).lower(*shapes)


def _both(name: str, offset: int, window, q, k, v, cache_k, cache_v, dout):
    """Values in the order of `NAMES`; the prefix is read from its cache as the executor does."""
    platform = jax.devices()[0].platform
    backend = get_backend(name, platform=platform, scoring=Scoring(window))
    prefix = Prefix(cache_k[:, :offset], cache_v[:, :offset]) if offset else None
    out, lse = backend.forward(q, k, v, prefix)
    grads = backend.backward(q, k, v, prefix, out, lse, dout)
    return out, lse, grads.dq, grads.dk, grads.dv, *(grads.prefix or ())


def _row(run: Run, name: str, arguments, wanted: list[np.ndarray]) -> dict[str, Any]:
    call = run.programs.get(name).call
    first, again = (_arrays(call(*arguments)) for _ in range(2))
    errors = {
        what: _error(got, expected)
        for what, got, expected in zip(NAMES, first, wanted, strict=False)
    }
    q, k, v, cache_k, cache_v, dout = arguments
    offset = cache_k.shape[1] - TAIL
    tails = [cache.at[:, offset:].set(jnp.nan) for cache in (cache_k, cache_v)]
    outside = _arrays(call(q, k, v, *tails, dout))
    last = [own.at[:, -1].set(jnp.nan) for own in (k, v)]
    hidden = _arrays(call(q, *last, cache_k, cache_v, dout))
    return errors | {
        "worst": max(errors.values()),
        "forward_same_bits": _same(first[:2], again[:2]),
        "backward_same_bits": _same(first[2:], again[2:]),
        # behind the prefix: never to be read. In the last key: masked for the other queries.
        "nan_outside_harmless": _same(first[:2], outside[:2]) and _finite(outside),
        "nan_hidden_harmless": bool(np.isfinite(hidden[0][:, :-1]).all()),
    }


def _arrays(values) -> list[np.ndarray]:
    return [np.asarray(value, np.float32) for value in values]


def _error(got: np.ndarray, expected: np.ndarray) -> float:
    expected = expected[:, -got.shape[1] :]  # a window hides the first tokens of a prefix
    error = float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
    return error if np.isfinite(error) else float("inf")


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def _finite(values: list[np.ndarray]) -> bool:
    return all(np.isfinite(value).all() for value in values)
