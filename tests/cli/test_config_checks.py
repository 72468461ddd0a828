from dataclasses import replace

import pytest

from seq1f1b_jax.config import Config, RopeConfig, UserError
from seq1f1b_jax.config.checks import num_virtual_devices, problems, validate


def change(**sections):
    config = Config()
    changed = {name: replace(getattr(config, name), **new) for name, new in sections.items()}
    return replace(config, **changed)


CASES = {
    "zero": (change(train={"num_steps": 0}), "train.num_steps=0", "use 200"),
    "negative": (change(schedule={"extra_warmup": -1}), "extra_warmup=-1", "0 or more"),
    "more than 32 bits": (change(data={"seq_len": 2**63}), f"seq_len={2**63}", "below 2**31"),
    "units": (
        change(schedule={"num_microbatches": 10**6, "num_chunks": 2}),
        "num_microbatches=1000000 of schedule.num_chunks=2 chunks are 2000000 units",
        "at most 100000",
    ),
    "zero byte": (change(schedule={"plan": "a\0b"}), "schedule.plan='a\\x00b'", "zero byte"),
    "nan": (change(optimizer={"learning_rate": float("nan")}), "learning_rate=nan", "above 0"),
    "infinite": (change(optimizer={"clip_norm": float("inf")}), "clip_norm=inf", "above 0"),
    "fraction": (change(data={"eval_fraction": 1.0}), "eval_fraction=1.0", "0.05"),
    "moment": (change(optimizer={"b2": 1.0}), "optimizer.b2=1.0", "below 1"),
    "ratio": (change(optimizer={"min_learning_rate_ratio": 2.0}), "ratio=2.0", "0.1"),
    "no effect with the optimizer": (
        change(optimizer={"name": "adafactor", "b1": 0.9}),
        "optimizer.b1=0.9 has no effect with optimizer.name=adafactor",
        "--optimizer.name adamw or lion or muon",
    ),
    "muon's": (
        change(optimizer={"ns_steps": 3}), "ns_steps=3 has no effect", "--optimizer.name muon"
    ),
    "no effect with the schedule": (
        change(optimizer={"schedule": "linear", "decay_fraction": 0.1}),
        "optimizer.decay_fraction=0.1 has no effect with optimizer.schedule=linear",
        "--optimizer.schedule wsd",
    ),
    "no floor": (
        change(optimizer={"schedule": "constant", "min_learning_rate_ratio": 0.2}),
        "min_learning_rate_ratio=0.2 has no effect with optimizer.schedule=constant",
        "cosine or linear or wsd",
    ),
    "no decay": (
        change(optimizer={"schedule": "wsd", "decay_fraction": 0.0}),
        "decay_fraction=0.0", "use 0.2",
    ),
    "lion's moment": (
        change(optimizer={"name": "lion", "b2": 1.0}), "optimizer.b2=1.0", "use 0.99"
    ),
    "iterations": (change(optimizer={"name": "muon", "ns_steps": 0}), "ns_steps=0", "use 5"),
    "eps": (change(optimizer={"eps": -1e-8}), "optimizer.eps=-1e-08", "above 0; use 1e-08"),
    "dropout": (change(model={"dropout": 0.1}), "dropout=0.1", "dropout=0"),
    "heads": (change(model={"num_heads": 6, "num_kv_heads": 4}), "num_kv_heads=4", "[1, 2, 3, 6]"),
    "stage": (change(model={"stage": "own.py:A b"}), "model.stage='own.py:A b'", "module:Class"),
    "two models": (change(model={"stage": "a:B", "source": "x"}), "model.source=x", "one of them"),
    "settings of no stage": (
        change(model={"settings": {"width": 3}}), "model.settings.width=3", "model.stage names none"
    ),
    "settings that JSON cannot hold": (
        change(model={"stage": "a:B", "settings": {"key": b"hi"}}), "settings.key=b'hi'", "numbers"
    ),
    "head_dim": (change(model={"model_dim": 100, "num_heads": 6}), "=100", "model_dim=102"),
    "positions": (
        change(model={"family": "gpt", "max_positions": 512}),
        "max_positions=512",
        "--model.max_positions 1024",
    ),
    "stretch": (
        change(model={"source": "x", "rope": RopeConfig(factor=8.0)}),
        "model.rope.factor=8.0 has no effect without a type",
        "rope.type to linear",
    ),
    "ids": (change(data={"source": "x.bin"}), "'x.bin'", "model.vocab_size"),
    "devices": (
        change(mesh={"platform": "cpu", "pipe": 8, "virtual_devices": 4}),
        "mesh.pipe=8",
        "--mesh.virtual_devices 8",
    ),
    "fewer layers": (
        change(model={"num_layers": 3}, mesh={"pipe": 4}),
        "num_layers=3 is fewer than mesh.pipe=4",
        "--mesh.pipe 3",
    ),
    "fewer layers, balanced": (
        change(model={"num_layers": 3}, mesh={"pipe": 4, "layers_per_stage": "balanced"}),
        "num_layers=3 is fewer than mesh.pipe=4",
        "--mesh.pipe 3",
    ),
    "layer sum": (
        change(model={"num_layers": 8}, mesh={"layers_per_stage": (3, 4)}),
        "adds up to 7",
        "--model.num_layers 7",
    ),
    "layer count": (
        change(mesh={"pipe": 3, "layers_per_stage": (3, 5)}),
        "names 2 stages",
        "--mesh.pipe 2",
    ),
    "empty stage": (change(mesh={"layers_per_stage": (8, 0)}), "[8, 0]", "1 or more"),
    "chunks": (
        change(data={"seq_len": 3}, schedule={"num_chunks": 4}),
        "num_chunks=4 is more than data.seq_len=3",
        "at most 3",
    ),
    "chunk sum": (
        change(schedule={"num_chunks": 2, "chunk_lengths": (512, 500)}),
        "adds up to 1012",
        "--data.seq_len 1012",
    ),
    "chunk count": (
        change(schedule={"chunk_lengths": (512, 512)}),
        "names 2 chunks",
        "--schedule.num_chunks 2",
    ),
    "empty chunk": (change(schedule={"chunk_lengths": (1024, 0)}), "[1024, 0]", "1 or more"),
    "over and over": (
        change(train={"resume": "never"}, distributed={"stopped_status": 77}),
        "stopped_status=77 is for a scheduler that starts the run again",
        "another train.output_dir",
    ),
    "no folder": (change(train={"output_dir": " "}), "output_dir is empty", "runs/default"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_combination_is_refused_with_what_was_given_and_the_cure(case):
    config, given, cure = CASES[case]
    with pytest.raises(UserError) as caught:
        validate(config)
    told = str(caught.value)
    assert given in told
    assert cure in told
    assert "\n" not in told


def test_a_good_configuration_has_no_problem():
    assert list(problems(Config())) == []
    assert list(problems(change(mesh={"pipe": 3}, model={"num_layers": 8}))) == []
    balanced = {"pipe": 3, "layers_per_stage": "balanced"}
    assert list(problems(change(mesh=balanced, model={"num_layers": 8}))) == []
    good = change(
        mesh={"pipe": 2, "layers_per_stage": (3, 5)},
        model={"num_layers": 8},
        schedule={"num_chunks": 3, "chunk_lengths": (500, 300, 224)},
    )
    assert list(problems(good)) == []


def test_virtual_devices_follow_the_stages():
    assert num_virtual_devices(Config().mesh) == 4
    assert num_virtual_devices(change(mesh={"pipe": 3}).mesh) == 3
    assert num_virtual_devices(change(mesh={"pipe": 2, "virtual_devices": 8}).mesh) == 8
