"""What may change where a run is continued, and whose files it never touches."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from seq1f1b_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, UserError
from seq1f1b_jax.data.tokenizer import BYTES
from seq1f1b_jax.models.hf import Origin
from seq1f1b_jax.pipeline.params.layout import Layout
from seq1f1b_jax.training.checkpoint.record import layout_from
from seq1f1b_jax.training.checkpoint.restore import (
    check_same_run,
    is_of_run,
    make_meta,
    report_changes,
)
from seq1f1b_jax.training.job import keep_source
from seq1f1b_jax.training.run_folder import check_folder

DOCUMENTS = DataConfig(packing="documents")


def run(data):
    """A run as `check_same_run` looks at it: its setup and its data."""
    config = replace(Config(), data=data)
    sequences = config.schedule.num_microbatches * data.microbatch_size
    setup = SimpleNamespace(config=config, num_sequences=sequences, stage=None)
    identity = {"seq_len": data.seq_len, "packing": data.packing}
    return setup, SimpleNamespace(corpus=SimpleNamespace(tokenizer=BYTES), identity=identity)


CHANGES = {
    "positions": ({"restart_positions": False}, "restart_positions: checkpoint True, this run Fal"),
    "length": ({"seq_len": 512}, "seq_len: checkpoint 1024, this run 512"),
    "size": ({"microbatch_size": 2}, "takes 8 sequences a step, and 16 were requested"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES.keys())
def test_a_run_does_not_continue_as_another(change, message):
    setup, data = run(DOCUMENTS)
    meta = make_meta(setup.config, data)
    check_same_run(meta, setup, data)
    with pytest.raises(ValueError, match=message):
        check_same_run(meta, *run(replace(DOCUMENTS, **change)))


@pytest.mark.parametrize(("before", "now", "message"), [
    (
        OptimizerConfig(), OptimizerConfig("lion"),
        "another optimizer .*optimizer.name: checkpoint adamw, this run lion.* --model.source",
    ),
    (
        OptimizerConfig("adafactor"), OptimizerConfig("adafactor", min_dim_size_to_factor=64),
        "min_dim_size_to_factor: checkpoint 128, this run 64",
    ),
], ids=["name", "state"])  # fmt: skip
def test_a_run_keeps_its_optimizer(before, now, message):
    setup, data = run(DOCUMENTS)
    setup.config = replace(setup.config, optimizer=before)
    meta = make_meta(setup.config, data)
    assert is_of_run(meta | {"data": {"kind": "stdlib"}})
    check_same_run(meta, setup, data)
    setup.config = replace(setup.config, optimizer=now)
    with pytest.raises(UserError, match=message):
        check_same_run(meta, setup, data)


def test_usual_values_of_the_optimizer_are_those_that_an_earlier_version_names():
    setup, data = run(DOCUMENTS)
    meta = make_meta(setup.config, data)
    meta["config"]["optimizer"] = {
        "learning_rate": 1e-3, "warmup_steps": 20, "decay_steps": None, "b1": 0.9, "b2": 0.95,
        "min_learning_rate_ratio": 0.1, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0,
    }
    told = []
    check_same_run(meta, setup, data)
    report_changes(meta, setup, 100, told.append)
    assert is_of_run(meta | {"data": {"kind": "stdlib"}}) and told == []
    setup.config = replace(setup.config, optimizer=OptimizerConfig(b2=0.99, nesterov=None))
    report_changes(meta, setup, 100, told.append)
    assert told == ["note: optimizer.b2: checkpoint 0.95, this run 0.99"]


def test_a_model_that_had_another_name_continues():
    name = "models.llama:Llama"
    setup, data = run(DOCUMENTS)
    meta = make_meta(replace(setup.config, model=ModelConfig(stage=name)), data)
    setup.config = replace(setup.config, model=ModelConfig(stage=f"seq1f1b_jax.{name}"))
    check_same_run(meta, setup, data)


GPT = ModelConfig(family="gpt", preset="2.7b", positions="learned", max_positions=32768)
BUILT = "seq1f1b_jax.models:build_stage"


@pytest.mark.parametrize(("model", "other"), [
    (GPT, replace(GPT, positions="rotary")),
    (ModelConfig(positions="rotary"), None),
    (ModelConfig(stage="own:Model"), None),
    (
        ModelConfig(stage=BUILT, settings={"family": "gpt", "positions": "learned"}),
        ModelConfig(stage=BUILT, settings={"family": "gpt"}),
    ),
], ids=["gpt", "llama", "custom", "gpt as a custom model"])  # fmt: skip
def test_a_gpt_of_an_earlier_version_has_learned_positions(model, other):
    """Before positions were a choice, no checkpoint named them."""
    setup, data = run(DOCUMENTS)
    setup.config = replace(setup.config, model=model)
    meta = make_meta(setup.config, data)
    meta["config"]["model"].pop("positions")
    meta["config"]["model"]["settings"].pop("positions", None)
    check_same_run(meta, setup, data)
    if other is not None:
        setup.config = replace(setup.config, model=other)
        with pytest.raises(ValueError, match="positions: checkpoint learned, this run"):
            check_same_run(meta, setup, data)


def test_a_layout_of_an_earlier_version_is_read():
    layout = Layout((1, 1, 1, 1), vocab_size=256, tied=False, stages_per_rank=2)
    record = json.loads(json.dumps(asdict(layout)))
    assert layout_from(record) == layout
    record["num_virtual"] = record.pop("stages_per_rank")
    assert layout_from(record) == layout


def test_windows_have_no_positions_to_restart():
    setup, data = run(DataConfig())
    check_same_run(make_meta(setup.config, data), *run(DataConfig(restart_positions=False)))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.yaml"])
def test_files_of_others_are_not_overwritten(tmp_path, name):
    check_folder(tmp_path)
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"holds {name} and no run; nothing is overwritten"):
        check_folder(tmp_path)
    (tmp_path / "events.jsonl").write_text("")  # a run that was killed before its first checkpoint
    check_folder(tmp_path)


def test_a_folder_named_source_that_no_run_wrote_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.training.job.origin_of", lambda origin: origin)

    def job(source=None, origin=None):
        config = SimpleNamespace(model=SimpleNamespace(source=source))
        return SimpleNamespace(folder=tmp_path, config=config, source=source and (origin or source))

    source = tmp_path / "source"
    source.mkdir()
    (source / "main.c").write_text("mine")
    (source / "about.json").write_text("{}")
    keep_source(job())
    with pytest.raises(ValueError, match="source was not written by a run"):
        keep_source(job(str(source)))
    assert (source / "main.c").read_text() == "mine"
    source.rename(tmp_path / "project")
    for number in (1, 2):  # an earlier run's makes room
        origin = Origin({"LICENSE": str(number)}, {}, None, False)
        keep_source(job("weights", origin))
        assert (source / "LICENSE").read_text() == str(number)
    keep_source(job())
    assert [path.name for path in tmp_path.iterdir()] == ["project"]
