"""Timelines that the tests draw."""

from functools import cache

from seq1f1b_jax.picture import Span, Timeline, timeline_of
from seq1f1b_jax.schedule import Action, Costs, Op, make_plan, simulate

# name -> schedule, P, M, C
PLANS = {
    "small": ("seq1f1b", 4, 4, 2),
    "wide": ("seq1f1b", 8, 8, 4),
    "split": ("seq-zb-h1", 4, 4, 2),
    "interleaved": ("seq1f1b-i", 4, 4, 2),
    "whole": ("1f1b", 4, 4, 1),
    "many chunks": ("seq1f1b", 2, 3, 12),
}


@cache
def simulated(name):
    schedule, num_ranks, num_microbatches, num_chunks = PLANS[name]
    plan = make_plan(
        schedule,
        num_ranks=num_ranks,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
    )
    return plan, simulate(plan, Costs(forward=1, backward=2))


@cache
def timeline(name):
    return timeline_of(simulated(name)[1], title=name)


def span(start, end, rank=0, op=Op.F, stage=None, microbatch=0, chunk=0):
    stage = rank if stage is None else stage
    return Span(rank, Action(op, stage, microbatch, chunk), start, end)


def one_box(**settings):
    """A timeline of one action on one rank."""
    given = {"title": "one", "num_ranks": 1, "spans": (span(0, 2),), **settings}
    return Timeline(**given)


def two_halves():
    """One unit on one rank, its backward split: F 0..1, I 2..3, W 5..6."""
    spans = (span(0, 1), span(2, 3, op=Op.I), span(5, 6, op=Op.W))
    return Timeline("halves", 1, spans, memory=(((0, 1), (6, 0)),))
