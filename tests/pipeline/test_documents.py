"""Packed documents against one document at a time: loss and every gradient leaf, float64."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.attention import blockwise
from seq1f1b_jax.ops.attention.contract import joined
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import make_plan
from tests.pipeline import cases
from tests.pipeline.errors import relative_errors

LENGTHS = (5, 3, 4)
SEQ_LEN = sum(LENGTHS)
SIZES = dict(num_layers=2, max_positions=SEQ_LEN, **cases.SIZES)


def stage_of(family):
    return build_stage(family, **SIZES)


@cache
def packed(family: str, attention: str):
    """Pipelined `(params, tokens, targets, starts) -> loss, gradients`, compiled once.

    Of one rank, which is half the program: documents on several are traps of test_exact.
    """
    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=1, num_chunks=3)
    step = build_step(
        stage_of(family), plan, make_mesh(1), chunk_lengths=LENGTHS,
        options=ExecutorOptions(attention, compute_dtype=jnp.float64, restart_positions=True),
    )
    if attention == "xla_blockwise":  # blocks smaller than a chunk
        functions = blockwise.forward, blockwise.backward
        small = joined(attention, *(partial(function, block=2) for function in functions))
        step = replace(step, attention=small)
    return step, jax.jit(step.loss_and_grads)


@cache
def alone(family: str):
    """Sum of losses of one document in front of padding, and its gradients; no mask but causal."""

    def total(params, tokens, targets):
        count = jnp.maximum(jnp.sum(targets >= 0), 1)
        mean = reference_loss(stage_of(family), params, tokens, targets, compute_dtype="float64")
        return mean * count

    return jax.jit(jax.value_and_grad(total))


def documents_of(starts):
    edges = [*np.unique(starts), SEQ_LEN]
    return list(zip(edges[:-1], edges[1:], strict=True))


def check(borders, *, family, attention):
    begins = np.zeros(SEQ_LEN, int)
    begins[list(borders)] = list(borders)
    starts = np.maximum.accumulate(begins)
    rng = np.random.default_rng(1)
    tokens = rng.integers(cases.VOCAB, size=SEQ_LEN)
    targets = np.append(tokens[1:], 0)
    documents = documents_of(starts)
    for _, end in documents:
        targets[end - 1] = -1  # the next token belongs to another document
    with jax.enable_x64(True):
        step, run = packed(family, attention)
        params = cases.parameters(step.stage, jnp.float64)
        batch = (jnp.asarray(a, jnp.int32)[None, None] for a in (tokens, targets, starts))
        loss, grads = run(step.from_canonical(params), *batch)
        results = []
        for begin, end in documents:
            own = np.zeros((2, 1, 1, SEQ_LEN), np.int32)
            own[1] = -1
            own[:, 0, 0, : end - begin] = tokens[begin:end], targets[begin:end]
            results.append(alone(family)(params, *jnp.asarray(own)))
        count = max(1, int((targets >= 0).sum()))
        expected_loss, expected = jax.tree.map(lambda *x: sum(x) / count, *results)
        assert abs(float(loss) - float(expected_loss)) <= 1e-12 * max(1, float(expected_loss))
        errors = relative_errors(step.to_canonical(grads), expected)
    assert {name: e for name, e in errors.items() if not e <= 1e-10} == {}


@pytest.mark.parametrize("border", range(1, SEQ_LEN))
def test_border_at_every_position(border):
    check([border], family="gpt", attention="xla_blockwise")


@pytest.mark.slow
def test_another_family_and_backend():
    check([4, 9], family="llama", attention="xla_dense")


@settings(max_examples=25, deadline=None)
@given(borders=st.sets(st.integers(1, SEQ_LEN - 1)))
def test_borders_anywhere(borders):
    # with documents of one or two tokens only, every target has seen one key: queries and keys
    # have the gradient 0, which rounding cannot be compared with
    assume(max(np.diff([0, *sorted(borders), SEQ_LEN])) > 2)
    check(borders, family="gpt", attention="xla_blockwise")


def test_starts_of_another_shape_are_refused(x64):
    step, _ = packed("llama", "xla_dense")
    tokens = np.zeros((1, 1, SEQ_LEN), np.int32)
    with pytest.raises(ValueError, match=r"starts of shape \(1, 12\).*\(1, 1, 12\)"):
        jax.eval_shape(step.loss_and_grads, step.abstract_params(), tokens, tokens, tokens[0])


def test_token_losses_are_those_of_the_reference(x64):
    case = cases.Case(P=2, M=2, C=3, lengths="odd", masks="restart", batch=2)
    step, batch = cases.build(case), cases.batch_of(case)
    params = cases.parameters(step.stage, case.dtype)
    losses = jax.jit(step.token_losses)(step.from_canonical(params), *batch)
    tokens, targets, starts = batch
    assert losses.shape == targets.shape
    assert not np.any(np.asarray(losses)[np.asarray(targets) < 0])
    chosen = np.argwhere(np.asarray(targets) >= 0)[[0, 7, -1]]
    for place in map(tuple, chosen):
        only = jnp.full_like(targets, -1).at[place].set(targets[place])
        expected = reference_loss(
            step.stage, params, tokens, only, starts, compute_dtype=case.dtype,
            restart_positions=True,
        )
        assert abs(float(losses[place]) / float(expected) - 1) <= 1e-12
