"""Weight gradients leave their matmul in the accumulation dtype, whatever is on the way."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.ops.wide_gradients import widen
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.executor import buffers
from seq1f1b_jax.pipeline.executor.layers.backward import Given, Kept, post_backward
from seq1f1b_jax.pipeline.params.trained import ALL
from seq1f1b_jax.pipeline.stage import routed_post
from seq1f1b_jax.schedule import make_plan
from tests.pipeline.own_stage import OwnStage

BF16, UNITS, TOKENS = jnp.bfloat16, 64, 32
W = jnp.asarray(np.random.default_rng(0).normal(size=(8, 12)), BF16)
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 8)), BF16)


def looped(w, x):
    return jax.lax.scan(lambda y, row: (y + row @ w, None), jnp.zeros((5, 12), BF16), x)[0]


@jax.checkpoint
def remade(w, x):
    return jnp.tanh(x @ w)


WIDE = {
    "matmul": lambda w, x: x @ w,
    "used transposed": lambda w, x: jnp.einsum("...d,fd->...f", x, w.T),
    "heads": lambda w, x: jnp.einsum("btd,dhf->bthf", x, w.reshape(8, 3, 4)),
    "used twice": lambda w, x: x @ w + jnp.tanh(x) @ w,
    "in parts": lambda w, x: jnp.concatenate([x @ w[:, :5], jnp.tanh(x @ w[:, 5:])], -1),
    "scaled": lambda w, x: x @ (w * 0.5),
    "masked": lambda w, x: x @ jnp.where(jnp.tri(8, 12, dtype=bool), w, 0),
    "one head of several": lambda w, x: x @ jax.lax.dynamic_slice_in_dim(w, x.shape[1] - 3, 4, 1),
    "a bias": lambda w, x: x @ jax.lax.stop_gradient(w) + w[0],
    "a norm's scale in float32": lambda w, x: (x.astype("float32") * w[:, 0]).astype(BF16),
    "recomputed": remade,
}
ROUND_BEFORE = ("used twice", "in parts", "recomputed", "a norm's scale in float32")
"""What their matmuls and sums read is rounded on the way to them."""

NARROW = {
    "a loop": looped,
    "a gradient that something else reads": lambda w, x: x @ (w * w.astype(BF16)),
}


def backward(function, kept, given):
    return jax.vjp(function, *kept)[1](given)


@pytest.mark.parametrize("name", WIDE)
def test_a_gradient_is_wide(name):
    function = WIDE[name]
    dy = jax.random.normal(jax.random.key(2), jax.eval_shape(function, W, X).shape).astype(BF16)
    narrow = backward(function, (W, X), dy)
    wide = widen(partial(backward, function), (W, X), dy, dtype="float32", platform="cpu")
    dw, dx = wide((W, X), dy)
    assert (dw.dtype, dx.dtype) == (jnp.float32, BF16)
    np.testing.assert_array_equal(dx, narrow[1])
    assert np.any(dw != dw.astype(BF16))  # it holds more than bfloat16 does
    scale = np.max(np.abs(dw))
    np.testing.assert_allclose(dw, narrow[0].astype("float32"), atol=2**-6 * scale)
    if name not in ROUND_BEFORE:
        exact = jax.vjp(lambda w: function(w, X.astype("float32")), W.astype("float32"))[1]
        np.testing.assert_allclose(dw, exact(dy.astype("float32"))[0], atol=1e-5 * scale)


@pytest.mark.parametrize("function", NARROW.values(), ids=NARROW.keys())
def test_a_gradient_from_elsewhere_is_what_it_was(function):
    dy = jnp.ones_like(function(W, X))
    narrow = partial(backward, function)
    wide = widen(narrow, (W, X), dy, dtype="float32", platform="cpu")
    results = [jax.jit(form)((W, X), dy) for form in (wide, narrow)]  # as they run in a step
    for ours, plain in zip(*results, strict=True):
        assert ours.dtype == BF16
        np.testing.assert_array_equal(ours, plain)


def test_operands_of_matmuls_stay_narrow_on_gpus():
    dy = jnp.ones((2, 5, 12), BF16)
    wide = widen(partial(backward, jnp.matmul), (X, W), dy, dtype="float32", platform="gpu")
    dots = [e for e in jax.make_jaxpr(wide)((X, W), dy).eqns if e.primitive.name == "dot_general"]
    assert {str(v.aval.dtype) for e in dots for v in e.invars} == {"bfloat16"}


def test_64_units_add_up_as_if_none_was_rounded():
    """A custom model, through the executor's own functions.

    The gradient of the output projection is `attended' d`, where d is the gradient of the residual
    stream, which the same call returns: so float64 knows the exact sum.
    """
    stage = OwnStage(num_layers=1, model_dim=32, num_heads=4, num_kv_heads=4, head_dim=8)
    plan = make_plan("1f1b", num_ranks=1, num_microbatches=1, num_chunks=1)
    options = ExecutorOptions(compute_dtype=BF16, recompute="full")
    step = build_step(stage, plan, make_mesh(1), chunk_lengths=(TOKENS,), options=options)
    program = step.program(1)
    rng = np.random.default_rng(0)

    def draw(tree):
        return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), tree)

    weights, x = draw(program.layer_shapes), program.layer_input(TOKENS)
    out = jax.ShapeDtypeStruct((1, TOKENS, 4, 8), BF16)
    rounded = partial(post_backward, routed_post(stage), program.residual_plans[0], ALL)
    forms = {"wide": program.layer_backwards[0].post, "rounded": rounded}
    exact, sums = 0, {name: jnp.zeros(weights["o"].shape) for name in forms}
    add, compiled = jax.jit(buffers.add_tree), {}
    for _ in range(UNITS):
        heads = dict.fromkeys(("q", "k", "v", "out"), draw(out))
        kept, given = Kept(weights, (), draw({"x": x})), Given(heads, (draw(x), ()))
        for name, form in forms.items():
            if name not in compiled:
                # XLA:CPU may otherwise leave out the rounding of d in front of a matmul
                lowered = jax.jit(form).lower(kept, given)
                compiled[name] = lowered.compile({"xla_allow_excess_precision": False})
            grads, results = compiled[name](kept, given)
            sums[name] = add(sums[name], grads["o"])
            if name == "wide":
                attended, d = (
                    np.asarray(value, np.float64).reshape(TOKENS, -1)
                    for value in (given.values["out"], results[0])
                )
                exact = exact + attended.T @ d
    errors = {
        name: np.max(np.abs(np.asarray(total) - exact)) / np.max(np.abs(exact))
        for name, total in sums.items()
    }
    assert errors["wide"] < 2e-6 < 1e-4 < errors["rounded"], errors


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weight_gradients_sum_over_one_dim(dtype):
    """Sequences and tokens are joined; XLA:CPU transposes what is summed over two dims."""
    draw = np.random.default_rng(0).standard_normal
    shapes = {"x": (2, 4, 5), "w": (5, 3), "dy": (2, 4, 3)}
    x, w, dy = (jnp.asarray(draw(shape), dtype) for shape in shapes.values())

    def backward(kept, given):
        return jax.vjp(lambda x, w: x @ w, *kept)[1](given)[::-1]

    joined = widen(backward, (x, w), dy, dtype="float32", platform="gpu")
    traced = {f: str(jax.make_jaxpr(f)((x, w), dy)) for f in (backward, joined)}
    assert "(([0, 1], [0, 1])" in traced[backward]
    assert "(([0, 1], [0, 1])" not in traced[joined]
    (dw, dx), (expected, same) = joined((x, w), dy), backward((x, w), dy)
    np.testing.assert_array_equal(dx, same)
    tolerance = 1e-6 if dtype == "float32" else 2.0**-7  # `expected` is rounded
    np.testing.assert_allclose(dw, expected, rtol=tolerance, atol=tolerance)
