"""I and W share the backward: the same gradients, and each matmul once."""

import math
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.executor.backward import backward, input_backward, weight_backward
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Inputs, Unit, WeightUnit
from seq1f1b_jax.pipeline.executor.forward import forward
from seq1f1b_jax.pipeline.executor.initial import state_shapes
from seq1f1b_jax.pipeline.executor.layers.weight_split import split_backward
from seq1f1b_jax.schedule import make_plan
from tests.compiled import compiled
from tests.pipeline.hlo import Module

TOKENS = 64


def program_of(family: str, recompute: str, trainable=None, **fields):
    stage = build_stage(
        family,
        num_layers=1,
        model_dim=32,
        num_heads=4,
        num_kv_heads=4 if family == "gpt" else 2,
        mlp_dim=96,
        vocab_size=8,
        max_positions=TOKENS,
        **fields,
    )
    plan = make_plan("zb-h1", num_ranks=1, num_microbatches=1, num_chunks=1)
    step = build_step(
        stage,
        plan,
        make_mesh(1),
        chunk_lengths=(TOKENS,),
        options=ExecutorOptions(
            attention="xla_dense", recompute=recompute, trainable=trainable
        ),
    )
    return step.program(1)


def zeros(tree):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)


def matmul_flops(function, *arguments) -> int:
    """FLOPs of every dot in the compiled program, each counted once (there is one layer)."""
    module = Module(compiled(jax.jit(function).lower(*arguments)).as_text())
    total = 0
    for instructions in module.computations.values():
        shapes = {i.name: i.arrays()[0][1] for i in instructions if i.arrays()}
        for instruction in instructions:
            if instruction.opcode == "dot":
                contracted = instruction.rest.split("lhs_contracting_dims={")[1].split("}")[0]
                lhs = shapes[instruction.operands()[0]]
                inner = math.prod(lhs[int(d)] for d in contracted.split(","))
                total += 2 * math.prod(instruction.arrays()[0][1]) * inner
    return total


def actions(program):
    """Matmul FLOPs of B, I and W of one unit; the first and last stage are one here."""
    weights = zeros(program.weight_shapes)
    tokens = jnp.zeros((1, 1, TOKENS), jnp.int32)
    inputs = Inputs(weights, zeros(program.table_shapes), tokens, tokens)
    state, message = zeros(state_shapes(program)), jnp.zeros(program.message_shape)
    unit = Unit(*[jnp.int32(0)] * len(Unit._fields))._replace(cache_pages=jnp.zeros(1, jnp.int32))
    weight_unit = WeightUnit(*[jnp.int32(0)] * len(WeightUnit._fields))

    def run(action, *arguments):
        return matmul_flops(
            lambda inputs, *rest: action(Chunk(program, 0, inputs), *rest), inputs, *arguments
        )

    return (
        run(backward, unit, state, message),
        run(input_backward, unit, state, message),
        run(weight_backward, weight_unit, state),
    )


HALVED = [("gpt", "none"), ("llama", "selective")]
MORE_HALVED = [("gpt", "full"), ("llama", "none"), ("gpt", "selective"), ("llama", "full")]


@pytest.mark.parametrize(
    "family, recompute", [*HALVED, *(pytest.param(*m, marks=pytest.mark.slow) for m in MORE_HALVED)]
)
def test_matmuls_of_the_halves_are_those_of_the_whole(family, recompute):
    whole, inputs, weights = actions(program_of(family, recompute))
    assert whole <= inputs + weights <= 1.02 * whole
    # 2 FLOPs per token and weight, for every weight matrix of a layer
    shapes = program_of(family, recompute).layer_shapes
    matrices = sum(math.prod(w.shape) for w in jax.tree.leaves(shapes) if len(w.shape) > 1)
    assert weights == 2 * TOKENS * matrices


def test_two_calls_of_a_vjp_would_do_more():
    """What the split is compared with: each call drops half of its results."""
    w1, w2, x = jnp.ones((32, 96)), jnp.ones((96, 32)), jnp.ones((TOKENS, 32))

    def half(index):
        def gradients(w, x, dy):
            return jax.vjp(lambda w, x: jnp.tanh(x @ w[0]) @ w[1], w, x)[1](dy)[index]

        return matmul_flops(gradients, (w1, w2), x, x)

    both = matmul_flops(
        lambda w, x, dy: jax.vjp(lambda w, x: jnp.tanh(x @ w[0]) @ w[1], w, x)[1](dy),
        (w1, w2),
        x,
        x,
    )
    assert half(0) + half(1) > 1.3 * both


def mlp(kept, given):
    def f(w, x):
        hidden = jnp.tanh(x * w["scale"]) @ w["up"] @ w["down"]
        return hidden * w["alpha"] + w["bias"]

    return jax.vjp(f, kept["weights"], kept["x"])[1](given)


def test_what_is_deferred():
    rng = np.random.default_rng(0)
    shapes = {"scale": (8,), "up": (8, 24), "down": (24, 8), "bias": (8,), "alpha": ()}
    shapes |= {"unused": (5,), "unused_scalar": ()}
    weights = {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()}
    kept, dy = {"weights": weights, "x": jnp.asarray(rng.normal(size=(4, 8)))}, jnp.ones((4, 8))
    split = split_backward(mlp, kept, dy)
    # `down` needs dy, `up` the gradient of its output. Their inputs W makes again: that of `up`
    # without a matmul, that of `down` with one that no input gradient needs. The gradient of
    # `alpha` needs what came out of that matmul, so it is late, too. What is not used has none.
    assert sorted(s.shape for s in split.deferred) == [(4, 8), (4, 8), (4, 24)]
    dx, direct, deferred = split.input_half(kept, dy)
    late = split.weight_half(kept, deferred)
    names = sorted(weights)
    assert {names[i] for i in direct} == {"bias", "scale"}
    assert {names[i] for i in late} == {"alpha", "down", "up"}
    expected, expected_dx = mlp(kept, dy)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-6)
    for index, gradient in {**direct, **late}.items():
        np.testing.assert_allclose(gradient, expected[names[index]], rtol=1e-6)


def test_a_gradient_that_no_cotangent_reaches_is_kept():
    @jax.custom_vjp
    def with_penalty(scale, x):
        return x

    with_penalty.defvjp(lambda scale, x: (x, scale), lambda scale, dy: (2 * scale, dy))

    def backward(kept, given):
        return jax.vjp(lambda w, x: with_penalty(w["scale"], x) @ w["w"], *kept)[1](given)

    kept = ({"scale": jnp.arange(3.0), "w": jnp.ones((8, 8))}, jnp.ones((4, 8)))
    _, direct, _ = split_backward(backward, kept, jnp.ones((4, 8))).input_half(
        kept, jnp.ones((4, 8))
    )
    np.testing.assert_array_equal(direct[0], 2 * jnp.arange(3.0))


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_halves_add_what_the_whole_adds_in_bfloat16(recompute):
    """Bit for bit: the same matmuls on the same values, added alike."""
    program = program_of("llama", recompute)
    options = replace(program.options, compute_dtype=jnp.bfloat16)
    program = replace(program, options=options)
    rng = np.random.default_rng(0)

    def values(tree):
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), tree)

    tokens = jnp.asarray(rng.integers(8, size=(1, 1, TOKENS)), jnp.int32)
    inputs = Inputs(values(program.weight_shapes), values(program.table_shapes), tokens, tokens)
    chunk, message = Chunk(program, 0, inputs), jnp.zeros(program.message_shape, jnp.bfloat16)
    unit = Unit(*[jnp.int32(0)] * len(Unit._fields))._replace(cache_pages=jnp.zeros(1, jnp.int32))
    weight_unit = WeightUnit(*[jnp.int32(0)] * len(WeightUnit._fields))

    def run(action, *arguments):
        options = {"xla_allow_excess_precision": False}  # else XLA:CPU leaves out roundings of dy
        return jax.jit(action).lower(*arguments).compile(options)(*arguments)

    state, _ = run(lambda s: forward(chunk, unit, s, message), zeros(state_shapes(program)))
    whole, _ = run(lambda s: backward(chunk, unit, s, message), state)
    half, _ = run(lambda s: input_backward(chunk, unit, s, message), state)
    halves = run(lambda s: weight_backward(chunk, weight_unit, s), half)
    chex.assert_trees_all_equal(halves.grads, whole.grads)
    moved = [np.any(leaf) for leaf in jax.tree.leaves(halves.grads.layers)]
    assert all(moved)
