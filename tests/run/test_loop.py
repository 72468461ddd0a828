"""The loop's order of events, with a made-up step: what is told, saved and stopped when."""

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from jax.errors import JaxRuntimeError

import train
from seq1f1b_jax.config import CheckpointConfig, Config, TrainConfig, UserError
from seq1f1b_jax.data import Batch
from seq1f1b_jax.distributed import ALONE
from seq1f1b_jax.host.progress import ProgressReport
from seq1f1b_jax.training.evaluation import HeldOut, Losses
from seq1f1b_jax.training.loop import Loop
from seq1f1b_jax.training.reports.events import NO_EVENTS, Events
from seq1f1b_jax.training.reports.work import Work
from seq1f1b_jax.training.step import StepMetrics


class Recorder:
    """A checkpointer, a metrics writer, a step and an evaluation that note what happens."""

    def __init__(self, *, signal_in: str | None = None):
        self.events: list[str] = []
        self._signal_in = signal_in

    def note(self, event: str) -> None:
        self.events.append(event)
        if event == self._signal_in:
            signal.raise_signal(signal.SIGTERM)

    def step(self, state: int, tokens, targets, starts):
        self.note(f"step {state + 1}")
        return state + 1, StepMetrics(*np.ones(4, np.float32), Work(1, 1.0))

    def evaluate(self, params) -> Losses:
        self.note(f"evaluate {self.events[-1].split()[-1]}")
        return Losses(HeldOut(np.ones(1), np.ones(1)), {})

    def write(self, index: int, **values) -> None:
        self.note(f"{'loss' if 'loss' in values else 'held_out'} {index + 1}")

    def save(self, step: int, state: int, *, meta, like, layout) -> None:
        assert step == state
        self.note(f"save {step}")

    def wait(self) -> None:
        self.note("wait")

    def catch_up(self) -> None:
        """It lags behind nothing."""


def events_of(recorder, *, start=0, group=ALONE, devices=(), phases=NO_EVENTS):
    """Run 4 steps, evaluating every 2 and saving every 3; also state and whether it finished."""
    config = Config(
        train=TrainConfig(num_steps=4, eval_every=2), checkpoint=CheckpointConfig(every=3)
    )
    cost = SimpleNamespace(model_flops=lambda **_: 1.0)
    pipeline = SimpleNamespace(layout=None)
    mesh = SimpleNamespace(local_devices=devices)
    setup = SimpleNamespace(config=config, cost=cost, pipeline=pipeline, mesh=mesh)
    loop = Loop(
        setup, lambda index: Batch(np.zeros(1), np.zeros(1)), recorder.step, recorder, recorder,
        evaluate=recorder.evaluate, bigram=1.0, meta={}, shapes=None,
        progress=ProgressReport(4), group=group, events=phases,
    )
    state, finished = loop.run(_State(start), start)
    return recorder.events, int(state), finished


class _State(int):
    """Number of finished steps, standing in for a train state."""

    params = None

    def __add__(self, other):
        return _State(int(self) + other)


def test_memory_at_its_peak_is_noted_after_the_first_step_and_at_every_save(tmp_path):
    peaks = iter((5, 7, 8))
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": next(peaks)})
    with Events(tmp_path / "events.jsonl") as phases:
        events_of(Recorder(), devices=[device], phases=phases)
    lines = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    told = [line["phase"] if "phase" in line else line["memory"]["peak"] for line in lines]
    assert told == [
        "step", 5, "step", "evaluate", "step", "save", 7, "step", "evaluate", "save", 8, "finish",
        "end",
    ]  # fmt: skip


def test_a_step_is_told_whole_before_it_is_saved():
    events, state, finished = events_of(Recorder())
    assert events == [
        "step 1", "loss 1",
        "step 2", "loss 2", "evaluate 2", "held_out 2",
        "step 3", "loss 3", "save 3",
        "step 4", "loss 4", "evaluate 4", "held_out 4", "save 4", "wait",
    ]  # fmt: skip
    assert (state, finished) == (4, True)


@pytest.mark.parametrize(
    "moment, saved",
    [
        ("step 1", 1),
        ("loss 1", 1),
        ("evaluate 2", 2),  # no checkpoint is due after step 2, and the signal comes late in it
        ("save 3", 4),  # what stops is what was saved: one more step, which is the last
    ],
)
def test_a_signal_at_any_moment_stops_with_the_last_step_saved(moment, saved, capfd):
    events, state, finished = events_of(Recorder(signal_in=moment))
    assert events[-2:] == [f"save {saved}", "wait"]
    assert (state, finished) == (saved, saved == 4)
    assert "stopping after this step" in capfd.readouterr().err


@pytest.mark.parametrize(("others", "saved"), [("fail too", True), ("evaluate", False)])
def test_a_process_whose_evaluation_fails_alone_does_not_wait_for_a_save(others, saved):
    class Two:
        count = 2
        peek = post = staticmethod(lambda *_: None)

        def gather(self, name, text, *, seconds):
            assert seconds <= 30
            if others == "evaluate":
                raise JaxRuntimeError("DEADLINE_EXCEEDED")

    def out_of_memory(params):
        raise UserError("no memory")

    recorder = Recorder()
    recorder.evaluate = out_of_memory
    with pytest.raises(UserError, match="no memory"):
        events_of(recorder, start=2, group=Two())
    assert ("save 4" in recorder.events) == saved


def test_ctrl_c_outside_the_steps_is_one_line_and_the_usual_status(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run", interrupted)
    assert train.main([]) == 130
    assert capsys.readouterr().err.strip() == "interrupted; what was saved before is kept"
