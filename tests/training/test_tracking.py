"""Services that a run reports to: what they get, how they start, fail and are continued."""

import json
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from seq1f1b_jax.config import Config, LoggingConfig
from seq1f1b_jax.training.reports.metrics import MetricsWriter, read_metrics
from seq1f1b_jax.training.tracking.opened import open_sinks
from seq1f1b_jax.training.tracking.sink import Behind


class Calls(list):
    """An object of any methods that notes how they are called."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.append((name, *args, *kwargs.values()))


@pytest.fixture
def services(monkeypatch):
    """Modules in place of tensorboardX, wandb and mlflow, and what they were told."""
    board, bees, client = Calls(), Calls(), Calls()
    bees.id, bees.config = "bees1", Calls()
    bees.init = lambda **k: bees.append(("init", k)) or bees
    client.get_experiment_by_name = lambda name: None
    client.create_experiment = lambda name: f"experiment {name}"
    client.create_run = lambda number, run_name: client.append(("create", number, run_name)) or (
        SimpleNamespace(info=SimpleNamespace(run_id="flow1"))
    )
    entities = ModuleType("mlflow.entities")
    entities.Metric = lambda name, value, now, step: (name, value, step)
    entities.Param = lambda name, value: (name, value)
    flow = ModuleType("mlflow")
    flow.MlflowClient = lambda tracking_uri: client.append(("at", tracking_uri)) or client
    made = SimpleNamespace(SummaryWriter=lambda folder, **k: board.append((folder, k)) or board)
    for name, module in (
        ("tensorboardX", made), ("wandb", bees), ("mlflow", flow), ("mlflow.entities", entities),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(board=board, bees=bees, client=client)


def config(**logging):
    return Config(logging=LoggingConfig(**logging))


EVERYTHING = config(tensorboard=True, wandb=True, mlflow=True, mlflow_uri="http://there")


def test_every_service_gets_numbers_and_the_files_that_it_has_a_place_for(services, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "schedule.svg"):
        (folder / name).write_text("a: 1")
    sinks = open_sinks(EVERYTHING, folder, 0, say=pytest.fail)
    with MetricsWriter(folder / "metrics.jsonl", start_step=0, sinks=sinks) as metrics:
        assert metrics.has_sinks
        metrics.keep(folder / "config.yaml", folder / "schedule.svg")
        metrics.write(4, **{"loss": 2, "drawn/a+b": 0.5})
    board, bees, client = services.board, services.bees, services.client
    assert board == [
        (str(folder / "tensorboard"), {"purge_step": 0}), ("add_text", "config.yaml", "    a: 1"),
        ("add_scalar", "loss", 2.0, 4), ("add_scalar", "drawn/a+b", 0.5, 4), ("close",),
    ]
    assert bees[0][1]["project"] == "seq1f1b-jax" and bees[0][1]["id"] is None
    assert bees.config[0][1]["data"]["source"] == "stdlib"
    assert bees[2:] == [
        ("save", str(folder / "config.yaml"), str(folder), "now"),
        ("save", str(folder / "schedule.svg"), str(folder), "now"),
        ("log", {"step": 4, "loss": 2.0, "drawn/a+b": 0.5}), ("finish", 0),
    ]
    assert client[:2] == [("at", "http://there"), ("create", "experiment seq1f1b-jax", "run")]
    params = [param for call in client if call[0] == "log_batch" for param in call[2]]
    assert ("data.seq_len", "1024") in params and ("drawn/a_b", 0.5, 4) in params
    assert all(len(call[2]) <= 100 for call in client if call[0] == "log_batch")
    assert client[-3][:2] == ("log_artifact", "flow1") or client[-1] == (
        "set_terminated", "flow1", "FINISHED",
    )


def test_a_resumed_run_continues_its_run_there_and_a_new_one_does_not(services, tmp_path):
    for sink in open_sinks(EVERYTHING, tmp_path, 0, say=pytest.fail):
        sink.close(failed=True)
    assert services.bees[-1] == ("finish", 1)
    assert services.client[-1] == ("set_terminated", "flow1", "FAILED")
    assert json.loads((tmp_path / "tracking.json").read_text()) == {
        "wandb": "bees1", "mlflow": "flow1",
    }
    for start, ids in ((7, ("bees1", 0)), (0, (None, 1))):
        services.client.clear()
        services.bees.clear()
        for sink in open_sinks(EVERYTHING, tmp_path, start, say=pytest.fail):
            sink.close(failed=False)
        created = sum(call[0] == "create" for call in services.client)
        assert (services.bees[0][1]["id"], created) == ids
        assert (("update_run", "flow1", "RUNNING") in services.client) == bool(start)


def test_a_service_that_does_not_start_is_one_line(services, tmp_path, monkeypatch):
    def refuse(**_):
        raise KeyError("No API key\nconfigured")

    services.bees.init = refuse
    with pytest.raises(ValueError, match="logging.wandb=true cannot start .*No API key.*; log in"):
        open_sinks(config(wandb=True), tmp_path, 0, say=print)
    for module, setting in (
        ("tensorboardX", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=rf"{setting}=true needs {module}.*\[logging\]"):
            open_sinks(config(**{setting: True}), tmp_path, 0, say=print)


def test_a_service_that_fails_later_is_said_once_and_tried_again(tmp_path):
    class Flaky:
        name = "Flaky"
        got = []

        def write(self, step, values):
            if step in (1, 2):
                raise KeyError("no network")
            self.got.append(step)

        def keep(self, path):
            raise OSError("no room")

        def close(self, *, failed):
            raise RuntimeError("still no network")

    told = []
    sinks = (Behind(Flaky(), say=told.append),)
    with MetricsWriter(tmp_path / "metrics.jsonl", start_step=0, sinks=sinks) as metrics:
        for step in range(4):
            metrics.write(step, loss=1.0)
        metrics.keep(tmp_path)
    assert Flaky.got == [0, 3]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4
    assert told == [
        "note: Flaky failed ('no network'); the run goes on, and its own files have everything",
        "note: Flaky failed 4 times in all",
    ]


def test_a_service_that_hangs_delays_neither_a_step_nor_the_end():
    class Hanging:
        name = "Hanging"

        def write(self, step, values):
            time.sleep(60)

    told, began = [], time.monotonic()
    sink = Behind(Hanging(), say=told.append, close_seconds=0.05)
    sink.write(0, {})
    sink.write(1, {})
    sink.close(failed=False)
    assert time.monotonic() - began < 5
    assert len(told) == 1 and "has not taken everything after 0 s; the run ends" in told[0]
