"""Chrome trace events: fields, times in microseconds, names."""

import json

import pytest

from seq1f1b_jax.picture import write_trace
from tests.picture.cases import PLANS, one_box, span, timeline, two_halves


@pytest.fixture
def read(tmp_path):
    def write_and_read(*timelines):
        write_trace(timelines, tmp_path / "trace.json")
        return json.loads((tmp_path / "trace.json").read_text())

    return write_and_read


def of_kind(trace, kind):
    return [event for event in trace["traceEvents"] if event["ph"] == kind]


@pytest.mark.parametrize("name", PLANS)
def test_every_span_is_a_complete_event(read, name):
    drawn = timeline(name)
    events = of_kind(read(drawn), "X")
    assert len(events) == len(drawn.spans)
    spans = {span_.action: span_ for span_ in drawn.spans}
    for event in events:
        args = event["args"]
        action = next(
            a
            for a in spans
            if (a.op, a.stage, *a.unit)
            == (args["op"], args["stage"], args["microbatch"], args["chunk"])
        )
        span_ = spans.pop(action)
        assert event["name"] == action.text(span_.rank)
        assert event["tid"] == span_.rank + 1
        assert (event["ts"], event["ts"] + event["dur"]) == (1000 * span_.start, 1000 * span_.end)
    assert not spans


def test_milliseconds_are_a_thousand_microseconds(read):
    (event,) = of_kind(read(one_box(unit="ms", spans=(span(0.5, 2.75),))), "X")
    assert (event["ts"], event["dur"]) == (500, 2250)


def test_spans_meet_exactly_whatever_the_rounding(read):
    spans = (span(0, 0.1 + 0.2), span(0.3, 0.7, chunk=1))
    first, second = of_kind(read(one_box(spans=spans)), "X")
    assert first["ts"] + first["dur"] == second["ts"]


def test_processes_are_timelines_and_threads_are_ranks(read):
    drawn = timeline("small"), timeline("whole")
    names = of_kind(read(*drawn), "M")
    processes = {e["pid"]: e["args"]["name"] for e in names if e["name"] == "process_name"}
    assert list(processes.values()) == ["small", "whole"]
    # 0 is Perfetto's own, and a thread with its process's number would be the main one
    threads = {e["tid"] for e in names if e["name"] == "thread_name"}
    assert threads == {1, 2, 3, 4} and not threads & set(processes) and 0 not in processes
    order = [e["args"]["sort_index"] for e in names if e["name"] == "thread_sort_index"]
    assert order == [0, 1, 2, 3] * 2
    labels = [e["args"]["labels"] for e in names if e["name"] == "process_labels"]
    assert labels[0] == "asynchronous machine, step 33, bubble 27.3 %"


def test_many_ranks_are_named_in_the_order_of_letters(read):
    spans = tuple(span(0, 1, rank=rank) for rank in range(12))
    names = of_kind(read(one_box(num_ranks=12, spans=spans)), "M")
    threads = [e["args"]["name"] for e in names if e["name"] == "thread_name"]
    assert threads == sorted(threads) and threads[3] == "rank 03"


def test_memory_is_a_counter_per_rank(read):
    counters = of_kind(read(two_halves()), "C")
    assert [(e["ts"], e["args"]) for e in counters] == [(0, {"units": 1}), (6000, {"units": 0})]
    assert {e["name"] for e in counters} == {"held by rank 0 (units)"}
    assert len({e["name"] for e in of_kind(read(timeline("wide")), "C")}) == 8


def test_the_trace_says_what_a_millisecond_stands_for(read):
    assert read(one_box())["otherData"]["time"] == "1 ms is 1 unit of cost"
    assert read(one_box(unit="ms"))["otherData"]["time"] == "1 ms is 1 ms"
