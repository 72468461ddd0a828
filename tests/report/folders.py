"""Folders of runs written by hand, and pages taken apart."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

KEYS = ("loss", "grad_norm", "learning_rate", "step_seconds", "tokens_per_second")
PREDICTION = {
    "version": 1, "num_params": 1234, "tokens_per_step": 64, "device": "virtual CPU device",
    "num_devices": 2, "step_bytes": {"ring": 3e6, "cache": 1e6, "deferred": 0}, "state_bytes": 2e6,
    "bubble_fraction": 0.25, "present_bytes": 8e9, "sharing": 2,
}  # fmt: skip
SETTINGS = """
model: {family: llama, preset: tiny, num_layers: 4, model_dim: 16}
mesh: {pipe: 2, data: 1, tensor: 1}
schedule: {name: seq1f1b, num_microbatches: 4, num_chunks: CHUNKS, partition: balanced}
data: {source: stdlib, seq_len: 32}
train: {num_steps: 6}
"""


def step(number, **changes):
    """A line of `metrics.jsonl`."""
    values = {"loss": 5 - 0.1 * number, "grad_norm": 2.0, "learning_rate": 1e-3}
    rates = {"step_seconds": 0.5, "tokens_per_second": 128.0, "data_seconds": 0.1}
    return {"step": number} | values | rates | changes


def event(when, phase=None, *, attempt="a", **more):
    """A line of `events.jsonl`."""
    return {"time": when, "attempt": attempt} | ({"phase": phase} if phase else {}) | more


WHOLE = [event(100, "start"), event(110, "step", step=0), event(112, "step", step=1)]
WHOLE += [event(114, "evaluate"), event(115, "end")]
KILLED = [event(100, "start"), event(110, "step", step=0), event(112, "step", step=1)]
KILLED += [event(130, "start", attempt="b"), event(135, "step", attempt="b", step=1)]
KILLED += [event(140, "step", attempt="b", step=2)]


def write_run(folder, lines=None, events=(), *, prediction=None, chunks=2) -> Path:
    """A run's folder; `lines` are those of its metrics, as values or as text."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [step(0), step(1)] if lines is None else lines
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("".join(f"{text}\n" for text in texts))
    (folder / "config.yaml").write_text(SETTINGS.replace("CHUNKS", str(chunks)))
    if events:
        (folder / "events.jsonl").write_text("".join(f"{json.dumps(e)}\n" for e in events))
    if prediction is not None:
        (folder / "prediction.json").write_text(json.dumps(prediction))
    return folder


class Page(HTMLParser):
    """Tags, texts and charts of a page, as a browser would take it apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.open = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1] += data
        elif self.open != "style" and data.strip():
            self.texts.append(data.strip())

    @property
    def charts(self):
        """Traces and layout of each chart by its name."""
        found = {}
        for script in self.scripts:
            start = re.search(r"Plotly\.newPlot\(\s*\"(\w+)\",\s*", script)
            if start and len(script) < 3_000_000:  # plotly's own script is larger
                traces, end = json.JSONDecoder().raw_decode(script, start.end())
                layout, _ = json.JSONDecoder().raw_decode(script, script.index("{", end))
                found[start[1]] = (traces, layout)
        return found


def read_page(path) -> Page:
    return Page(Path(path).read_text("utf-8"))


def numbers(values) -> list[float]:
    """A list of a chart, which plotly may have written as base64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return values
