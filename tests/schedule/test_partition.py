"""Cuts of the sequence: optimal against brute force, aligned, and clear about bad input."""

import time
from functools import cache
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule import (
    StageCost,
    aligned_block,
    balanced_lengths,
    even_lengths,
    explicit_lengths,
    make_plan,
    simulate,
    tiled_lengths,
)


def _brute_force(seq_len, num_chunks, cost, block):
    """Try all aligned cuts: least largest cost, then least squares, then longest first chunks."""

    def merit(lengths):
        starts = [sum(lengths[:i]) for i in range(num_chunks)]
        costs = [cost(s, n) for s, n in zip(starts, lengths, strict=True)]
        return max(costs), sum(c**2 for c in costs), tuple(-n for n in lengths)

    cuts = combinations(range(block, seq_len, block), num_chunks - 1)
    candidates = [tuple(b - a for a, b in pairwise((0, *cut, seq_len))) for cut in cuts]
    return min(candidates, key=merit)


@given(
    num_chunks=st.integers(1, 5),
    extra_tokens=st.integers(0, 40),
    block=st.integers(1, 4),
    linear=st.integers(0, 9),
    quadratic=st.integers(0, 5),
    step=st.integers(1, 7),
)
@settings(max_examples=200, deadline=None)
def test_balanced_is_optimal_for_costs_like_attention(
    num_chunks, extra_tokens, block, linear, quadratic, step
):
    seq_len = min(num_chunks * block + extra_tokens, 14 * block)

    def cost(start, length):
        # The division makes plateaus, where many cuts are equally good.
        return (linear * length + quadratic * length * (2 * start + length)) // step

    found = balanced_lengths(seq_len, num_chunks, cost, block=block)
    assert found == _brute_force(seq_len, num_chunks, cost, block)


@given(st.data(), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_balanced_is_optimal_for_any_cost_that_grows_with_the_chunk(data, seq_len, num_chunks):
    num_chunks = min(num_chunks, seq_len)
    spans = [(a, b) for a in range(seq_len) for b in range(a + 1, seq_len + 1)]
    drawn = data.draw(st.lists(st.integers(0, 9), min_size=len(spans), max_size=len(spans)))
    bumps = dict(zip(spans, drawn, strict=True))

    @cache
    def cost(start, length):
        end = start + length
        return max(bump for (a, b), bump in bumps.items() if start <= a and b <= end)

    found = balanced_lengths(seq_len, num_chunks, cost, block=1)
    assert found == _brute_force(seq_len, num_chunks, cost, 1)


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 64))
@settings(deadline=None)
def test_even_chunks_are_as_equal_as_whole_blocks_allow(seq_len, num_chunks, block):
    num_chunks = min(num_chunks, seq_len)
    lengths = even_lengths(seq_len, num_chunks, block=block)
    used = aligned_block(seq_len, num_chunks, block=block)
    assert sum(lengths) == seq_len
    assert len(lengths) == num_chunks
    assert all(length % used == 0 for length in lengths[:-1])
    # The last block may be short, so the chunk that holds it may be a block longer.
    assert max(lengths) - min(lengths) <= used
    assert max(lengths) < seq_len / num_chunks + used


@pytest.mark.parametrize(
    ("seq_len", "num_chunks", "block", "lengths"),
    [
        (1024, 4, 128, (256, 256, 256, 256)),
        (1000, 4, 128, (256, 256, 256, 232)),
        (1025, 4, 128, (256, 256, 256, 257)),
        (1152, 4, 128, (384, 256, 256, 256)),
        (7, 3, 128, (2, 2, 3)),
        (5, 5, 1, (1, 1, 1, 1, 1)),
    ],
)
def test_even_lengths(seq_len, num_chunks, block, lengths):
    assert even_lengths(seq_len, num_chunks, block=block) == lengths


@pytest.mark.parametrize(
    ("seq_len", "num_chunks", "block", "used"),
    [(512, 4, 128, 128), (511, 4, 128, 64), (100, 4, 128, 16), (4, 4, 128, 1), (300, 3, 100, 100)],
)
def test_short_sequences_use_a_smaller_block(seq_len, num_chunks, block, used):
    assert aligned_block(seq_len, num_chunks, block=block) == used


def test_a_million_tokens_are_cut_in_well_under_a_second():
    cost = StageCost(
        model_dim=4096,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        mlp_dim=14336,
        gated=True,
        vocab_size=128256,
        layers_per_stage=(4,) * 8,
    )
    start = time.process_time()
    lengths = balanced_lengths(1 << 20, 16, cost, block=128)
    seconds = time.process_time() - start
    assert sum(lengths) == 1 << 20
    assert seconds < 0.5
    costs = [cost(sum(lengths[:i]), n) for i, n in enumerate(lengths)]
    assert max(costs) / min(costs) < 1.06  # one block is 4 % of the shortest chunk
    assert list(lengths) == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("layers", "dim", "heads", "seq_len", "published"),
    [
        (32, 2560, 32, 32768, (11944, 8268, 6731, 5825)),
        (64, 6144, 64, 65536, (23418, 16629, 13641, 11848)),
    ],
    ids=["2.7b", "30b"],
)
def test_the_published_splits_come_out_of_the_published_cost(
    layers, dim, heads, seq_len, published
):
    """The method's own cost, forward only: `L[8xd2 + 4xdf + a(4dh+3)(xS - x2/2)] + 4xdV`."""

    def cost(start, length):
        pairs = length * (start + length) - length**2 / 2
        layer = 8 * length * dim**2 + 4 * length * dim * 4 * dim
        layer += heads * (4 * dim // heads + 3) * pairs
        return layers * layer + 4 * length * dim * 50304

    lengths = balanced_lengths(seq_len, 4, cost, block=1)
    for ours, theirs in zip(lengths, published, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)  # 1.7e-4 at the most: two tokens of 11,944


def published_cost(**sizes):
    heads = {"num_heads": 32, "num_kv_heads": 32, "vocab_size": 50304}
    return StageCost(**heads | sizes)


SHAPES = {  # seq_len, cost
    "2.7b": (32768, published_cost(
        model_dim=2560, head_dim=80, mlp_dim=10240, gated=False, layers_per_stage=(4,) * 8
    )),
    "7b": (32768, published_cost(
        model_dim=4096, head_dim=128, mlp_dim=11008, gated=True, layers_per_stage=(4,) * 8
    )),
    "7b at 128k": (131072, published_cost(
        model_dim=4096, head_dim=128, mlp_dim=11008, gated=True, layers_per_stage=(4,) * 8
    )),
    "30b": (65536, published_cost(
        model_dim=6144, num_heads=64, num_kv_heads=64, head_dim=96, mlp_dim=16384, gated=True,
        layers_per_stage=(8,) * 8,
    )),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_of_whole_tiles_cost_little_of_a_step(shape):
    seq_len, cost = SHAPES[shape]
    for num_chunks, tiled in ((4, True), (8, shape == "7b at 128k")):
        lengths = tiled_lengths(seq_len, num_chunks, cost, block=128, tile=1024)
        assert (not any(length % 1024 for length in lengths)) == tiled
        fine = balanced_lengths(seq_len, num_chunks, cost, block=128)
        plan = make_plan("seq1f1b", num_ranks=8, num_microbatches=8, num_chunks=num_chunks)
        step, least = (
            simulate(plan, cost.costs(cut), machine="executor").makespan
            for cut in (lengths, fine)
        )
        assert step / least <= 1.0075  # 0.7 % at the most: 7b at 128k, eight chunks


@pytest.mark.parametrize(
    ("tile", "max_unevenness", "lengths"),
    [
        (1024, 0.04, (7168, 5120, 4096)),
        (4096, 0.04, (7040, 5120, 4224)),  # the first chunk would cost 21 % more
        (4096, float("inf"), (8192, 4096, 4096)),
        (8192, float("inf"), (7040, 5120, 4224)),  # longer than a third of the sequence
        (192, float("inf"), (7040, 5120, 4224)),  # no multiple of the block
    ],
)
def test_cuts_fall_on_tiles_only_within_the_bound(tile, max_unevenness, lengths):
    def cost(start, length):
        return length * (24000 + 2 * start + length)

    found = tiled_lengths(
        16384, 3, cost, block=128, tile=tile, max_unevenness=max_unevenness
    )
    assert found == lengths


def test_explicit_lengths_are_kept():
    assert explicit_lengths(10, [5, 3, 2]) == (5, 3, 2)


@pytest.mark.parametrize(
    ("lengths", "reported"),
    [
        ([5, 3], r"seq_len=10: their sum is 8; add 2"),
        ([9, 3], r"seq_len=10: their sum is 12; take away 2"),
        ([11, -1], r"\[11, -1\]"),
        ([10, 0], r"\[10, 0\]"),
        ([], r"\[\]"),
    ],
)
def test_lengths_that_do_not_add_up_are_refused(lengths, reported):
    with pytest.raises(ValueError, match=reported):
        explicit_lengths(10, lengths)


@pytest.mark.parametrize(
    ("seq_len", "num_chunks", "block", "reported"),
    [
        (3, 4, 128, "seq_len=3 .* num_chunks=4"),
        (8, 0, 128, "num_chunks=0"),
        (8, 2, 0, "block=0"),
    ],
)
def test_impossible_cuts_are_refused(seq_len, num_chunks, block, reported):
    for cut in (even_lengths, lambda *a, **k: balanced_lengths(*a, lambda s, n: n, **k)):
        with pytest.raises(ValueError, match=reported):
            cut(seq_len, num_chunks, block=block)
