"""Runs that are watched: profiles of steps, and services that get the run's files."""

import sys
from types import ModuleType, SimpleNamespace

import jax
import pytest

from seq1f1b_jax.training.profiler import StepProfiler
from tests.run.tiny import command_line, copy_until, losses, run


@pytest.fixture
def flow(monkeypatch):
    """A module in place of mlflow, and the calls of its client."""
    calls = []

    class Client:
        def __init__(self, tracking_uri):
            if tracking_uri == "http://nowhere":
                raise OSError("no route\nto host")

        def __getattr__(self, name):
            made = SimpleNamespace(info=SimpleNamespace(run_id="7"), experiment_id="1")
            return lambda *args, **given: calls.append((name, *args, *given.values())) or made

    entities = ModuleType("mlflow.entities")
    entities.Metric = lambda name, value, now, step: (name, step)
    entities.Param = lambda name, value: name
    module = ModuleType("mlflow")
    module.MlflowClient = Client
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return calls


def test_steps_are_profiled_and_a_service_keeps_what_tells_of_the_run(
    flow, finished, source, tmp_path
):
    folder = copy_until(finished, tmp_path / "run", 4)
    line = command_line(folder, source, train__profile="0,5", logging__mlflow="true")
    outcome = run(*line)
    assert outcome.status == 0, outcome.err
    assert losses(folder) == losses(finished)  # watching changes nothing
    path = folder / "profile" / "step_5"
    assert f"the profile of step 5 is in {path}; open plugins/profile/" in outcome.out
    assert "at https://ui.perfetto.dev, or all of it with tensorboard --logdir" in outcome.out
    assert len(list(path.glob("plugins/profile/*/*.xplane.pb"))) == 1
    assert [one.name for one in (folder / "profile").iterdir()] == ["step_5"]  # 0 is done
    kept = [call[2].rpartition("/")[2] for call in flow if call[0] == "log_artifact"]
    assert kept == ["config.yaml", "prediction.json", "header.txt", "schedule.svg", "report.html"]
    assert "\nrank 0  F0.0 F0.1 F1.0 " in (folder / "header.txt").read_text()
    numbers = [one for call in flow if call[0] == "log_batch" for one in call[2]]
    assert [one[1] for one in numbers if one[0] == "loss"] == [4, 5]
    assert flow[-1] == ("set_terminated", "7", "FINISHED")


def test_what_cannot_be_watched_is_one_line_and_status_2(flow, source, tmp_path):
    for changes, told in (
        ({"train__profile": "4-9"}, "names step 9, and the run has the steps 0 to 5"),
        ({"train__profile": "9-4"}, "train.profile=9-4 names no steps; write 10, 10-12"),
        ({"train__profile_processes": "all"}, "has no effect without train.profile"),
        ({"logging__mlflow": "true", "logging__mlflow_uri": "http://nowhere"},
         "logging.mlflow=true cannot start (no route to host); name a tracking server"),
    ):  # fmt: skip
        outcome = run(*command_line(tmp_path / "run", source, **changes))
        assert outcome.status == 2 and outcome.err.count("\n") == 1, outcome.err
        assert told in outcome.err
        assert "compiling" not in outcome.out  # it is said before the long part


def test_each_process_has_a_folder_and_a_profile_that_fails_stops_nothing(tmp_path):
    told = []
    with StepProfiler([range(1, 3)], tmp_path, process="process_1", say=told.append) as profiler:
        for step in range(4):
            profiler.before(step)
            profiler.after(step)
    assert (tmp_path / "steps_1-2" / "process_1" / "plugins").is_dir() and len(told) == 1
    jax.profiler.start_trace(tmp_path / "other")  # someone else profiles this process
    try:
        with StepProfiler([range(0, 9)], tmp_path, say=told.append) as profiler:
            for step in range(3):
                profiler.before(step)
                profiler.after(step)
    finally:
        jax.profiler.stop_trace()
    assert len(told) == 2 and told[1].startswith("note: no profile in ")
    assert told[1].endswith("; the run goes on")
