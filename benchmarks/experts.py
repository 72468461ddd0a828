"""Experts in sorted blocks against `lax.ragged_dot`, and against a dense MLP of as many FLOPs.

    python -m benchmarks.experts            about 2 minutes on two cores
    python -m benchmarks.experts --repeats 5 --tokens 2048

Seconds of a layer's MLP, forward and backward, on this CPU: the median over rounds in which all
take turns. Bytes are those of scratch in the program that is compiled for it, and for an H100 where
the extra `aot` is installed.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.aot import h100_mesh, has_aot
from benchmarks.common import report
from seq1f1b_jax.ops.experts import Kernels, expert_mlp
from seq1f1b_jax.ops.router import route

DIM, WIDTH = 512, 256
COUNTS = ((8, 2), (32, 4))
"""Experts, and how many a token has."""


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    rows = [measure(*counts, options.tokens, options.repeats) for counts in COUNTS]
    report.show("An MLP of experts, forward and backward", rows)
    report.finish({
        "rows": rows,
        "largest_over_dense": max(row["blocks / dense"] for row in rows),
        "smallest_ragged_over_blocks": min(row["ragged_dot / blocks"] for row in rows),
    })
    return 0


def measure(num_experts: int, num_chosen: int, num_tokens: int, repeats: int) -> dict:
    """One row: all three ways with the same router and the same FLOPs."""
    ways = {
        "blocks": _step(_blocks, num_experts, num_chosen),
        "ragged_dot": _step(_ragged, num_experts, num_chosen),
        "dense": _step(_dense, 1, num_chosen),
    }
    compiled = {
        name: jax.jit(step).lower(*_shapes(name, num_experts, num_chosen, num_tokens)).compile()
        for name, step in ways.items()
    }
    inputs = {
        name: _draw(_shapes(name, num_experts, num_chosen, num_tokens)) for name in ways
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + repeats):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*inputs[name]))
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    row = {
        "experts": f"{num_chosen} of {num_experts}",
        "dense, s": median["dense"],
        "blocks / dense": median["blocks"] / median["dense"],
        "ragged_dot / blocks": median["ragged_dot"] / median["blocks"],
        "blocks, MB": compiled["blocks"].memory_analysis().temp_size_in_bytes / 1e6,
        "ragged_dot, MB": compiled["ragged_dot"].memory_analysis().temp_size_in_bytes / 1e6,
    }
    return row | _on_h100(ways, num_experts, num_chosen, num_tokens)


def _on_h100(ways, num_experts: int, num_chosen: int, num_tokens: int) -> dict:
    if not has_aot():
        return {}
    whole = NamedSharding(h100_mesh((1,), ("pipe",)), PartitionSpec())
    found = {}
    for name in ("blocks", "ragged_dot"):
        shapes = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, jnp.bfloat16, sharding=whole),
            _shapes(name, num_experts, num_chosen, num_tokens),
        )
        memory = jax.jit(ways[name]).lower(*shapes).compile().memory_analysis()
        found[f"{name} on H100, MB"] = memory.temp_size_in_bytes / 1e6
    return found


def _step(mlp: Callable, num_experts: int, num_chosen: int) -> Callable:
    """Output and gradients of tokens, router and kernels."""

    def loss(h, router, kernels):
        return mlp(h, router, kernels, num_chosen).astype(jnp.float32).sum()

    return jax.grad(loss, (0, 1, 2))


def _blocks(h, router, kernels: Kernels, num_chosen: int):
    weights, experts, _ = route(h, router, num_chosen, True)
    return expert_mlp(h, weights, experts, kernels, activation=_activation)


def _ragged(h, router, kernels: Kernels, num_chosen: int):
    """Tokens copied for each of their experts, sorted; the library's matmul of groups."""
    weights, experts, _ = route(h, router, num_chosen, True)
    pairs = experts.reshape(-1)
    order = jnp.argsort(pairs, stable=True)
    counts = jnp.bincount(pairs, length=len(kernels.gate)).astype(jnp.int32)
    tokens = order // num_chosen
    x = h.reshape(-1, DIM)[tokens]
    gate, up = (lax.ragged_dot(x, kernel, counts) for kernel in kernels[:2])
    hidden = _activation(gate, up) * weights.reshape(-1)[order][:, None].astype(h.dtype)
    y = lax.ragged_dot(hidden, kernels.down, counts)
    return jnp.zeros((h.size // DIM, DIM), y.dtype).at[tokens].add(y)


def _dense(h, router, kernels: Kernels, num_chosen: int):
    """One MLP, as wide as the experts of a token together."""
    return _activation(h @ kernels.gate[0], h @ kernels.up[0]) @ kernels.down[0]


def _activation(gate, up):
    return jax.nn.silu(gate) * up


def _shapes(way: str, num_experts: int, num_chosen: int, num_tokens: int):
    count, width = (1, WIDTH * num_chosen) if way == "dense" else (num_experts, WIDTH)

    def of(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    kernels = Kernels(of(count, DIM, width), of(count, DIM, width), of(count, width, DIM))
    return of(1, num_tokens, DIM), of(DIM, num_experts), kernels


def _draw(shapes):
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten(
        0.05 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)
    )


if __name__ == "__main__":
    raise SystemExit(main())
