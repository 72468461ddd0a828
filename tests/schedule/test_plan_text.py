"""Plans as text: what is written is read back, and what cannot be read is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq1f1b_jax.schedule import Action, Exchange, Op, Plan, make_plan, parse_grid

_indices = st.integers(0, 10**6)
_actions = st.builds(Action, st.sampled_from(Op), _indices, _indices, _indices)


@given(_actions, _indices)
def test_action_text_is_read_back(action, rank):
    assert Action.parse(action.text(rank), rank) == action


def test_only_a_stage_of_another_number_is_named():
    assert Action(Op.F, stage=1, microbatch=2, chunk=1).text(rank=1) == "F2.1"
    assert Action(Op.W, stage=3, microbatch=0, chunk=12).text(rank=1) == "W0.12@3"


@pytest.mark.parametrize("text", ["", "F", "F2", "f2.1", "F2.1 ", "X2.1", "F-1.0", "F2.1@"])
def test_what_is_no_action_is_refused(text):
    with pytest.raises(ValueError, match="rank 7"):
        Action.parse(text, rank=7)


@given(
    st.lists(st.lists(_actions, max_size=5).map(tuple), min_size=1, max_size=4).map(tuple),
    st.tuples(st.integers(1, 99), st.integers(1, 99)),
    st.integers(1, 9),
    st.sampled_from(Exchange),
)
def test_plan_text_is_read_back_for_any_plan(ranks, sizes, stages_per_rank, exchange):
    plan = Plan(
        "any", len(ranks), *sizes, ranks, stages_per_rank=stages_per_rank, exchange=exchange
    )
    assert Plan.parse(plan.text()) == plan


def test_header_names_the_exchange_always_and_stages_per_rank_where_there_are_several():
    sizes = {"num_ranks": 2, "num_microbatches": 3, "num_chunks": 1}
    headers = [make_plan(name, **sizes).text().split("\n")[0] for name in ("1f1b", "1f1b-i")]
    assert headers == [
        "1f1b ranks=2 microbatches=3 chunks=1 exchange=parity",
        "1f1b-i ranks=2 microbatches=3 chunks=1 stages_per_rank=2 exchange=lockstep",
    ]


def test_a_header_of_an_earlier_version_is_read():
    plan = make_plan("1f1b-i", num_ranks=2, num_microbatches=3, num_chunks=1)
    text = plan.text().replace("ranks=", "stages=", 1).replace("stages_per_rank=", "virtual=")
    assert text.startswith("1f1b-i stages=2 microbatches=3 chunks=1 virtual=2 ")
    assert Plan.parse(text) == plan


def test_a_grid_of_more_stages_than_ranks_is_a_ring():
    plan = parse_grid("rank 0  F0.0 F0.0@2\nrank 1  F0.0 F0.0@3", name="hand")
    assert (plan.num_ranks, plan.stages_per_rank, plan.num_stages) == (2, 2, 4)
    assert plan.exchange is Exchange.LOCKSTEP
    assert [plan.rank(stage) for stage in range(4)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("several", "exchange"), [("", "parity"), (" stages_per_rank=2", "lockstep")]
)
def test_a_header_without_exchange_never_means_what_cannot_run(several, exchange):
    assert Plan.parse(f"a ranks=1 microbatches=1 chunks=1{several}\n-").exchange == exchange


@pytest.mark.parametrize("name", ["1F1B", "Seq1F1B-I", "ZB-H1"])
def test_capitals_do_not_matter(name):
    sizes = {"num_ranks": 2, "num_microbatches": 2, "num_chunks": 1}
    assert make_plan(name, **sizes) == make_plan(name.lower(), **sizes)


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("zb-h2", "updating each rank before .* use seq-zb-h1"),
        ("zb-v", "stages in a V .* stage s is on rank s mod P; use seq-zb-h1"),
        ("ZBV", "in a V"),
        ("ZBVZeroBubble", "in a V"),
        ("v-half", "in a V"),
        ("V-Min", "in a V"),
        ("DualPipeV", "in a V"),
        ("dualpipe", "two copies of the parameters"),
        ("chimera", "two copies of the parameters"),
        ("hanayo", "in waves"),
        ("PipeDream-2BW", "stale weights"),
        ("Interleaved1F1B", "it is 1f1b-i here"),
        ("InterleavedZeroBubble", "can be read from its CSV"),
        ("LoopedBFS", "can be read from its CSV"),
    ],
)
def test_published_schedules_that_are_not_offered_are_no_spelling_mistakes(name, reported):
    with pytest.raises(ValueError, match=reported) as caught:
        make_plan(name, num_ranks=2, num_microbatches=2, num_chunks=1)
    assert repr(name) in str(caught.value) and "did you mean" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("seq1f1b ranks=2", "ranks=2"),
        ("seq1f1b ranks=3 microbatches=1 chunks=1\nF0.0 B0.0\nF0.0 B0.0", "3 has 2 rows"),
        ("seq1f1b ranks=1 microbatches=0 chunks=1\n", "num_microbatches=0"),
        ("seq1f1b ranks=1 microbatches=1 chunks=1 stages_per_rank=0\n-", "stages_per_rank=0"),
        ("seq1f1b ranks=1 microbatches=1 chunks=1 exchange=ring\n-", "exchange='ring'"),
        ("seq1f1b ranks=1 microbatches=1 chunks=1\nF0.0 B0", "'B0'"),
    ],
)
def test_unreadable_plan_text_says_what_is_wrong(text, reported):
    with pytest.raises(ValueError, match=reported):
        Plan.parse(text)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ({"name": "seq1f2b"}, "'seq1f2b' is not known; did you mean 'seq1f1b'"),
        ({"name": "DUAL"}, "use one of gpipe, terapipe, 1f1b, seq1f1b"),
        ({"num_ranks": 0}, "num_ranks=0"),
        ({"num_microbatches": -1}, "num_microbatches=-1"),
        ({"num_chunks": 0}, "num_chunks=0"),
        ({"extra_warmup": -2}, "extra_warmup=-2 must be at least 0"),
        ({"name": "1f1b", "num_chunks": 3}, "num_chunks=3 .* use 1, or the schedule seq1f1b"),
        ({"name": "zb-h1", "num_chunks": 2}, "num_chunks=2 .* the schedule seq-zb-h1"),
        ({"name": "terapipe", "extra_warmup": 4}, "extra_warmup=4 .* use one of 1f1b, seq1f1b"),
        ({"stages_per_rank": 2}, "stages_per_rank=2 .* use one of 1f1b-i, seq1f1b-i"),
        ({"short_warmup": True}, "short_warmup=True .* use one of 1f1b-i, seq1f1b-i"),
        ({"name": "seq1f1b-i", "stages_per_rank": 1}, "=1 leaves nothing to interleave"),
        ({"name": "seq1f1b-i", "num_ranks": 0}, "num_ranks=0"),
        ({"name": "seq1f1b-i", "num_microbatches": 0}, "num_microbatches=0"),
        ({"name": "seq1f1b-i", "num_chunks": 0}, "num_chunks=0"),
        ({"name": "seq-zb-h1", "num_ranks": 0}, "num_ranks=0"),
    ],
)
def test_impossible_schedules_are_refused(arguments, reported):
    valid = {"name": "seq1f1b", "num_ranks": 2, "num_microbatches": 2, "num_chunks": 2}
    with pytest.raises(ValueError, match=reported):
        make_plan(**(valid | arguments))
