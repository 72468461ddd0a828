"""Which attention a program gets: `auto` takes the fastest that is proven on the device.

No kernel is trusted unseen. Before cuDNN's is used, one small chunk with a prefix goes forward and
backward through it on the device and is compared with `xla_dense`. Devices that are only compiled
for cannot be asked; there `auto` goes by what is known of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import DTypeLike

from seq1f1b_jax.ops.attention import cudnn
from seq1f1b_jax.ops.attention.contract import AttentionBackend, Prefix
from seq1f1b_jax.ops.attention.registry import AUTO, NAMES, get_backend
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring

NUM_TOKENS, OFFSET = 256, 256
"""Of the chunk that is compared."""

WINDOWS = (192, 320)
"""Narrower and wider than the chunk: every kind of part is called."""

TOLERANCE = 4 * 2.0**-8
"""Largest difference over the largest entry: four roundings to bfloat16. Seen on an H200: 1.5."""


ERRORS = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, OSError,
    MemoryError,
)  # fmt: skip
"""What a driver, a library or a compiler may raise; XLA's own error is a RuntimeError."""


@runtime_checkable
class Device(Protocol):
    """A `jax.Device`, of this machine or only compiled for."""

    platform: str
    device_kind: str
    process_index: int


@dataclass(frozen=True)
class Heads:
    """What attention is computed of.

    Attributes:
      num_heads: query heads on one device.
      num_kv_heads: key/value heads on one device.
      dim: of a head.
      dtype: of queries, keys and values.
      value_dim: width of a head of values; `None`: `dim`.
      scorings: how the layers make scores, each once.
    """

    num_heads: int
    num_kv_heads: int
    dim: int
    dtype: DTypeLike
    value_dim: int | None = None
    scorings: tuple[Scoring, ...] = (PLAIN,)


def choose_backend(name: str, devices: Sequence[Device], heads: Heads) -> AttentionBackend:
    """The backend of that name, or the best one for `auto`; with the first of the scorings.

    `auto` is `cudnn` on GPUs that have it and pass the check, else `xla_blockwise`; the backend
    says why. Where the devices belong to all processes, these decide together.

    Args:
      name: one of `registry.NAMES`.
      devices: of the program's mesh.
      heads: what it computes.

    Raises:
      ValueError: no such backend, or `cudnn` where it cannot run; the message says why.

    Example:
      >>> import jax
      >>> choose_backend("auto", jax.devices(), Heads(4, 2, 64, "float32")).name
      'xla_blockwise'
    """
    if name not in NAMES:
        raise ValueError(f"attention={name!r} is unknown; use one of {', '.join(NAMES)}")
    platform = devices[0].platform
    get = partial(get_backend, platform=platform, scoring=heads.scorings[0])
    if name not in (AUTO, "cudnn"):
        return get(name)
    against = partial(
        cudnn.reason_against, dtype=heads.dtype, head_dim=heads.dim, value_dim=heads.value_dim,
        platform=platform, capability=getattr(devices[0], "compute_capability", None),
    )
    reasons = (against(scoring=scoring) for scoring in heads.scorings)
    reason = next((text for text in reasons if text is not None), None)
    expected = platform == "cpu" and reason is not None  # nobody asks why a CPU has no cuDNN
    found = "not run: no such device here"
    here = _here(devices)
    if reason is None and here is not None:
        reason = _agreed(check(here, heads), devices)
        found = f"checked against xla_dense on {here.device_kind}"
    if reason is None:
        return get("cudnn").because(found)
    if name != AUTO:
        raise ValueError(
            f"attention={name!r}: {reason}; use 'xla_blockwise', or 'auto', which takes the best "
            "one that runs"
        )
    fallback = get("xla_blockwise")
    return fallback if expected else fallback.because(reason)


def for_documents(
    name: str, backend: AttentionBackend, devices: Sequence[Device], heads: Heads
) -> AttentionBackend:
    """A backend for sequences that hold documents, in place of one that has no mask for them.

    Args:
      name: what was asked for; only `auto` may take another one.
      backend: what was chosen.
      devices: of the program's mesh.
      heads: what it computes.

    Raises:
      ValueError: a backend without such a mask was named.
    """
    if backend.documents:
        return backend
    reason = f"{backend.name} has no mask for documents"
    if name != AUTO:
        raise ValueError(
            f"attention={name!r}: {reason}; use 'xla_blockwise', or 'auto', which does so by itself"
        )
    return choose_backend("xla_blockwise", devices, heads).because(reason)


@cache
def check(device: jax.Device, heads: Heads) -> str | None:
    """Run cuDNN's attention of a small chunk on a device; why it cannot be used, or `None`."""
    num_kv_heads = min(heads.num_kv_heads, 2)
    groups = heads.num_heads // heads.num_kv_heads
    small = replace(heads, num_heads=groups * num_kv_heads, num_kv_heads=num_kv_heads)
    for scoring in _checked(heads.scorings):
        try:
            error, where = _difference(device, replace(small, scorings=(scoring,)))
        except ERRORS as failure:
            text = str(failure).strip().splitlines() or [""]
            return f"cuDNN's attention failed its check: {type(failure).__name__}: {text[0][:200]}"
        if not error <= TOLERANCE:  # NaN is no number to compare
            return (
                f"cuDNN's attention failed its check: {where} differs from xla_dense by "
                f"{error:.2g} of its largest entry; {TOLERANCE:.2g} is allowed"
            )
    return None


def _checked(scorings: tuple[Scoring, ...]) -> list[Scoring]:
    """The scorings with windows of the chunk that is compared, each once."""
    found = []
    for scoring in scorings:
        windows = (None,) if scoring.window is None else WINDOWS
        found += [replace(scoring, window=window) for window in windows]
    return list(dict.fromkeys(found))


def _difference(device: jax.Device, heads: Heads) -> tuple[float, str]:
    """Largest relative difference between cuDNN and the oracle, and in what."""
    draw = np.random.default_rng(0).standard_normal
    queries = (1, NUM_TOKENS, heads.num_heads, heads.dim)
    own, before = ((1, n, heads.num_kv_heads, heads.dim) for n in (NUM_TOKENS, OFFSET))
    shapes = (queries, own, own, before, before, queries)
    values = [jnp.asarray(draw(shape), heads.dtype) for shape in shapes]
    found = {}
    for name, dtype in (("cudnn", heads.dtype), ("xla_dense", jnp.float32)):
        backend = get_backend(name, platform=device.platform, scoring=heads.scorings[0])
        inputs = jax.device_put([value.astype(dtype) for value in values], device)
        found[name] = jax.jit(_both, static_argnums=0)(_Run(backend), *inputs)
    errors = {}
    for key, expected in found["xla_dense"].items():
        got = np.asarray(found["cudnn"][key], np.float64)
        wide = np.asarray(expected, np.float64)[:, -got.shape[1] :]
        errors[key] = float(np.max(np.abs(got - wide)) / np.max(np.abs(wide)))
    worst = max(errors, key=lambda key: np.nan_to_num(errors[key], nan=np.inf))
    return errors[worst], worst


@dataclass(frozen=True, eq=False)
class _Run:
    backend: AttentionBackend


def _both(run: _Run, q, k, v, prefix_k, prefix_v, dout) -> dict[str, jax.Array]:
    prefix = Prefix(prefix_k, prefix_v)
    out, lse = run.backend.forward(q, k, v, prefix)
    grads = run.backend.backward(q, k, v, prefix, out, lse, dout)
    assert grads.prefix is not None
    named = {"out": out, "lse": lse, "dq": grads.dq, "dk": grads.dk, "dv": grads.dv}
    return named | {"prefix dk": grads.prefix.k, "prefix dv": grads.prefix.v}


def _here(devices: Sequence[Device]) -> jax.Device | None:
    """One of the devices on which this process can run something."""
    try:
        local = jax.local_devices(backend=devices[0].platform)
    except RuntimeError:  # no such platform here
        return None
    return next((device for device in devices if any(device is one for one in local)), None)


def _agreed(reason: str | None, devices: Sequence[Device]) -> str | None:
    """What all processes found: a kernel is used by all of them or by none."""
    owners = {device.process_index for device in devices}
    if len(owners) == 1 or len(owners) != jax.process_count():
        return reason
    passed = np.asarray(multihost_utils.process_allgather(np.asarray(reason is None)))
    if reason is None and not passed.all():
        return f"cuDNN's attention failed its check in process {int(np.argmin(passed))}"
    return reason
