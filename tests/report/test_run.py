"""Reading a run's folder: whole, in progress, killed, damaged."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.report.facts import differences, facts
from seq1f1b_jax.report.run import read_run
from tests.report.folders import KILLED, PREDICTION, WHOLE, event, step, write_run


def read(folder, *arguments, **options):
    return read_run(write_run(folder, *arguments, **options), "it")


def test_a_whole_run_tells_what_it_is_and_how_it_went(tmp_path):
    held_out = {"step": 1, "held_out_loss": 4.5, "bigram_loss": 6.0}
    memory = event(114, memory={"arguments": 2_000_000, "temporaries": 5_000_000})
    run = read(tmp_path, [step(0), step(1), held_out], [*WHOLE[:-1], memory, WHOLE[-1]],
               prediction=PREDICTION)  # fmt: skip
    assert run.notes == ()
    assert facts(run) == {
        "model": "llama tiny, 4 layers of width 16, 1,234 parameters",
        "mesh": "2 x virtual CPU device; pipe 2, data 1, tensor 1",
        "schedule": "seq1f1b: 4 microbatches, 2 chunks (balanced)",
        "data": "stdlib, sequences of 32 tokens, 64 in a step",
        "steps": "2 of 6: stopped",
        "tokens": "128",
        "training loss": "4.9000 in step 2",
        "held-out loss": "4.5000 after step 2; bigram model 6.0000",
        "step": "500 ms (median), 128 tokens/s",
        "bubble": "25.0% predicted",
        "memory of a device": "6.0 MB predicted; 7.0 MB compiled; the device reports no peak; "
        "2 share 8.00 GB",
        "wall time": "15 s; 26.7% in useful steps; began 1970-01-01 00:01 UTC",
        "lost time": "none",
        "restarts": "none",
    }


def test_a_killed_run_tells_restarts_and_lost_time(tmp_path):
    run = read(tmp_path, None, KILLED)
    told = facts(run)
    assert told["restarts"] == "1, 1 of them after a kill"
    assert told["lost time"] == "18 s down"
    assert told["steps"] == "2 of 6: in progress, or killed"


def test_a_run_that_ended_after_a_kill_is_not_in_progress(tmp_path):
    run = read(tmp_path, [step(n) for n in range(6)], [*KILLED, event(141, "end", attempt="b")])
    assert (facts(run)["steps"], facts(run)["restarts"]) == ("6 of 6", "1, 1 of them after a kill")


def test_metrics_alone_are_enough(tmp_path):
    folder = write_run(tmp_path)
    (folder / "config.yaml").unlink()
    run = read_run(folder, "it")
    known = {name: text for name, text in facts(run).items() if text != "-"}
    assert known == {
        "steps": "2", "tokens": "128", "training loss": "4.9000 in step 2",
        "step": "500 ms (median), 128 tokens/s",
    }  # fmt: skip
    assert run.notes == ()


def test_measured_peak_and_limit_replace_what_is_missing(tmp_path):
    events = [*WHOLE[:2], event(111, memory={"peak": 7_000_000})]
    prediction = PREDICTION | {"present_bytes": 85e9, "sharing": 1, "host_bytes": 3e9}
    told = facts(read(tmp_path, None, events, prediction=prediction))["memory of a device"]
    assert told == (
        "6.0 MB predicted; 7.0 MB measured; 3.00 GB of host memory; it has 85.00 GB"
    )  # fmt: skip


def test_lines_that_no_run_wrote_and_numbers_that_are_not_finite_are_told(tmp_path):
    lines = [step(0), "noise", "[" * 10_000, step(1, loss=None), step(2, grad_norm=None), '{"ste']
    run = read(tmp_path, lines)
    (tmp_path / "metrics.jsonl").write_bytes((tmp_path / "metrics.jsonl").read_bytes()[:-1])
    run = read_run(tmp_path, "it")  # half a line at the end is being written
    assert run.notes == (
        "2 of the lines of metrics.jsonl are not what a run writes; left out",
        "loss is not finite in step 2; the curve has a gap there",
        "grad_norm is not finite in step 3; the curve has a gap there",
    )
    np.testing.assert_array_equal(run.curve("loss").value, [5, np.nan, 4.8])


def test_many_holes_are_counted(tmp_path):
    run = read(tmp_path, [step(0), *(step(n, loss=None) for n in range(1, 9))])
    assert run.notes[0].startswith("loss is not finite in step 2, 3, 4, 5, 6 and 3 more;")


BROKEN = {
    "prediction.json": ["", "[]", "{}", '{"version": 1}', "nul",
                        json.dumps(PREDICTION | {"num_params": "x"}),
                        json.dumps(PREDICTION | {"step_bytes": {"ring": None}}),
                        json.dumps(PREDICTION | {"state_bytes": -1})],
    "config.yaml": ["- 1", "model: [", "a: &a [*a]"],
    "events.jsonl": ["noise\n", '{"time": NaN, "attempt": "a", "phase": "start"}\n',
                     '{"time": 1, "attempt": [1], "phase": "start"}\n', '{"memory": 3}\n'],
    "trace.json": ["{}", "[]", '{"traceEvents": []}', '{"traceEvents": [{"ph": "X"}]}'],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name in BROKEN for text in BROKEN[name]]
)
def test_a_file_that_is_damaged_is_left_out_and_told(name, content, tmp_path):
    folder = write_run(tmp_path)
    (folder / name).write_text(content)
    run = read_run(folder, "it")
    [note] = run.notes
    assert name in note and "\n" not in note
    assert run.num_steps == 2


def test_a_prediction_of_another_version_is_told(tmp_path):
    [note] = read(tmp_path, prediction=PREDICTION | {"version": 7}).notes
    assert "is of version 7, and this code reads version 1" in note


def test_fields_of_a_later_version_are_no_obstacle(tmp_path):
    run = read(tmp_path, prediction=PREDICTION | {"colour": "red"})
    assert run.prediction.total_bytes == 6e6 and run.notes == ()


def test_what_may_not_be_read_is_told(tmp_path):
    folder = write_run(tmp_path)
    (folder / "events.jsonl").mkdir()
    (folder / "trace.json").mkdir()
    assert len(read_run(folder, "it").notes) == 2


def test_a_traced_step_tells_how_long_ranks_waited(tmp_path):
    def span(process, rank, start, end):
        return {"ph": "X", "name": "F0.0", "pid": process, "tid": rank, "ts": start,
                "dur": end - start}  # fmt: skip

    events = [
        {"ph": "M", "name": "process_name", "pid": 7, "tid": 1, "args": {"name": "x, measured"}},
        *({"ph": "M", "name": "thread_name", "pid": 7, "tid": rank, "args": {}} for rank in (1, 2)),
        {"ph": "M", "name": "process_name", "pid": 8, "tid": 1, "args": {"name": "x, predicted"}},
        {"ph": "M", "name": "thread_name", "pid": 8, "tid": 1, "args": {}},
        span(7, 1, 0, 60), span(7, 2, 50, 100), span(8, 1, 0, 50),
    ]  # fmt: skip
    folder = write_run(tmp_path)
    (folder / "trace.json").write_text(json.dumps({"traceEvents": events}))
    run = read_run(folder, "it")
    assert facts(run)["bubble"] == "45.0% in the traced step (x, measured)"
    assert (run.trace.num_ranks, run.trace.page) == (2, None)


def make(folder, kind):
    match kind:
        case "a file":
            folder.write_text("")
        case "empty folder":
            folder.mkdir()
        case "no step yet":
            write_run(folder, [])
        case "evaluations only":
            write_run(folder, [{"step": 0, "held_out_loss": 1.0}])
        case "metrics a folder":
            (folder / "metrics.jsonl").mkdir(parents=True)
        case "missing":
            pass


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("missing", "run does not exist; name the folder of a run"),
        ("a file", "run is a file; name the folder of a run"),
        ("empty folder", "run holds no metrics.jsonl; name the folder of a run"),
        ("no step yet", "metrics.jsonl holds no step yet; try again"),
        ("evaluations only", "metrics.jsonl holds no step yet; try again"),
        ("metrics a folder", "metrics.jsonl (Is a directory); name a run's folder"),
    ],
)
def test_what_is_no_run_is_refused(kind, told, tmp_path):
    make(tmp_path / "run", kind)
    with pytest.raises(UserError) as error:
        read_run(tmp_path / "run", "it")
    assert told in str(error.value)


def test_settings_that_differ():
    runs = [
        SimpleNamespace(settings={"a.x": 1, "a.y": [1, 2], "a.z": None, "train.output_dir": "a"}),
        SimpleNamespace(settings={"a.x": 1, "a.y": [1, 3], "train.output_dir": "b"}),
        SimpleNamespace(settings={}),
    ]
    assert differences(runs) == {"a.y": ["[1, 2]", "[1, 3]", "-"], "a.z": ["None", "-", "-"]}
    assert differences(runs[1:]) == {}
