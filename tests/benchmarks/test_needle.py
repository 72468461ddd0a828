"""Needles lie behind a border, answers are theirs alone, and chunks train as whole sequences do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import needle
from benchmarks.needle import Task, Training
from seq1f1b_jax.ops.attention import Prefix

TASK = Task(
    seq_len=22, num_chunks=3, num_needles=3, num_queries=4, num_fillers=4, num_keys=5, num_values=6
)
TWO_CHUNKS = Task(
    seq_len=12, num_chunks=2, num_needles=2, num_queries=3, num_fillers=3, num_keys=3, num_values=3
)
SIZES = Training(num_microbatches=2, num_sequences=2, model_dim=8, num_heads=1)


@pytest.fixture(scope="module")
def haystacks():
    return needle.make_haystacks(TASK, (3, 50), seed=(7, 0))


@pytest.fixture(scope="module")
def pipelines():
    return needle.pipelines(TWO_CHUNKS, SIZES)


def rows_of(haystacks):
    names = ("tokens", "targets", "borders")
    yield from zip(*(getattr(haystacks, n).reshape(-1, TASK.seq_len) for n in names), strict=True)


def needles_of(tokens):
    """Key -> (value, position) of the needles of one sequence, read from the tokens alone."""
    found = {}
    for position, token in enumerate(tokens):
        code = token - TASK.num_fillers - TASK.num_keys
        if code >= 0:
            key, value = divmod(int(code), TASK.num_values)
            assert key not in found
            found[key] = value, position
    return found


def test_every_answer_is_that_of_its_needle_and_nothing_else_has_a_target(haystacks):
    for tokens, targets, _ in rows_of(haystacks):
        found = needles_of(tokens)
        assert len(found) == len({value for value, _ in found.values()}) == TASK.num_needles
        asked = tokens - TASK.num_fillers
        is_query = (asked >= 0) & (asked < TASK.num_keys)
        assert is_query.sum() == TASK.num_queries
        answers = [found[int(key)][0] for key in asked[is_query]]
        np.testing.assert_array_equal(targets[is_query], answers)
        assert (targets[~is_query] == -1).all()


def test_borders_lie_between_needle_and_query(haystacks):
    starts = np.cumsum((0, *TASK.chunk_lengths[:-1]))
    assert len(set(TASK.chunk_lengths)) == 2  # lengths differ, so that no division finds the chunk
    counted = []
    for tokens, _, borders in rows_of(haystacks):
        found = needles_of(tokens)
        for query in np.flatnonzero(borders >= 0):
            place = found[int(tokens[query]) - TASK.num_fillers][1]
            crossed = sum(place < start <= query for start in starts)
            assert borders[query] == crossed >= 1
            counted.append(crossed)
    assert set(counted) == {1, 2}


def test_sequences_depend_on_seed_stream_and_step_alone(haystacks):
    again = needle.make_haystacks(TASK, (3, 50), seed=(7, 0))
    np.testing.assert_array_equal(haystacks.tokens, again.tokens)
    np.testing.assert_array_equal(haystacks.targets, again.targets)
    for seed in ((8, 0), (7, 1), (7, 0, 1)):
        other = needle.make_haystacks(TASK, (3, 50), seed=seed)
        assert (haystacks.tokens != other.tokens).mean() > 0.5


@pytest.mark.slow
def test_chunked_and_whole_training_have_equal_losses(pipelines):
    chunked, whole = (
        needle.train(pipelines[name], TWO_CHUNKS, SIZES, steps=5, seed=3)[0]
        for name in ("chunked", "whole")
    )
    assert len(set(chunked)) == 5  # it trains
    np.testing.assert_allclose(chunked, whole, rtol=0, atol=1e-5)


def test_control_drops_the_gradient_of_the_prefix_only(pipelines):
    control, chunked = pipelines["no prefix gradient"].attention, pipelines["chunked"].attention
    assert control.forward is chunked.forward
    normal = np.random.default_rng(0).standard_normal
    q, dout = normal((2, 1, 3, 2, 4), np.float32)
    k, v = normal((2, 1, 8, 2, 4), np.float32)
    q, dout, k, v = map(jnp.asarray, (q, dout, k, v))
    chunk = (q, k[:, 5:], v[:, 5:], Prefix(k[:, :5], v[:, :5]))
    inputs = (*chunk, *chunked.forward(*chunk), dout)
    exact, ours = chunked.backward(*inputs), control.backward(*inputs)
    for own, same in zip(exact[:3], ours[:3], strict=True):
        np.testing.assert_array_equal(own, same)
    for with_prefix, without in zip(exact.prefix, ours.prefix, strict=True):
        assert (np.asarray(with_prefix) != 0).all()
        assert (np.asarray(without) == 0).all()


def test_answers_are_counted_where_there_is_a_query(pipelines):
    stage = pipelines["whole"].stage
    batch = needle.make_haystacks(TWO_CHUNKS, (1, 20), seed=(0,))
    params = jax.jit(stage.init)(jax.random.key(0))
    silent = params._replace(head=np.zeros_like(params.head))  # all logits equal: the answer is 0
    right = needle.right_answers(stage, silent, batch)
    np.testing.assert_array_equal(right, batch.targets == 0)
    assert right.any()
