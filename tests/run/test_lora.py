"""A run that trains adapters or a part of a checkpoint: resume, evaluate, sample, export."""

import json
import re
import shutil

import numpy as np
import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import load_canonical, read_source
from tests.run.tiny import command_line, losses, run, saved_state

LORA = {"lora__rank": 3, "lora__projections": "[query,value,down]"}


@pytest.fixture(scope="module")
def base(first_run, tmp_path_factory):
    """A checkpoint to start from."""
    folder = tmp_path_factory.mktemp("base") / "model"
    assert run("export", f"--train.output_dir={first_run[0]}", f"--to={folder}").status == 0
    return folder


@pytest.fixture(scope="module")
def tuned(base, source, tmp_path_factory):
    """A run of six steps with adapters, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    outcome = run(*command_line(folder, source, model__source=base, **LORA))
    assert (outcome.status, outcome.err) == (0, "")
    return folder, outcome.out


def params_of(folder) -> dict[str, np.ndarray]:
    """Parameters of the newest checkpoint by name."""
    return {
        name.removeprefix("params."): leaf for name, leaf in saved_state(folder).items()
        if name.startswith("params.")
    }


def test_only_adapters_train(tuned, base):
    folder, told = tuned
    assert "trains    1,344 of 19,920 parameters (LoRA rank 3 on query, value, down)\n" in told
    loaded = load_canonical(read_source(base), build_stage(**read_source(base).fields))
    found = params_of(folder)
    kernel = loaded.layers["attention"]["query"]["kernel"]
    assert np.array_equal(found["layers.attention.query.kernel"], kernel)
    assert np.array_equal(found["embedding"], loaded.embedding)
    assert found["layers.mlp.down.lora_b"].any()
    moments = [name for name in saved_state(folder) if ".mu." in name]
    assert moments and all(".lora_" in name for name in moments)


@pytest.mark.slow
def test_a_run_goes_on_as_if_nothing_had_happened(tuned, base, source, tmp_path):
    folder, _ = tuned
    start = {"model__source": base, "train__num_steps": 2, "optimizer__decay_steps": 6, **LORA}
    assert run(*command_line(tmp_path / "again", source, **start)).status == 0
    copy = shutil.copytree(tmp_path / "again", tmp_path / "other")
    start["train__num_steps"] = 6
    assert run(*command_line(tmp_path / "again", source, **start)).status == 0
    assert losses(tmp_path / "again") == losses(folder)
    moved = run(*command_line(copy, source, **start, mesh__pipe=1, mesh__tensor=2))
    assert moved.status == 0, moved.err
    for step, loss in losses(folder).items():
        assert abs(losses(copy)[step] - loss) < 1e-4


def test_a_run_is_looked_at_and_exported(tuned, base, tmp_path):
    folder, _ = tuned
    given = f"--train.output_dir={folder}"
    evaluated = run("evaluate", given)
    assert evaluated.status == 0
    loss = re.search(r"held-out loss (\S+) nats", evaluated.out)[1]
    assert run("generate", given, "--num_tokens=4").status == 0
    assert run("export", given, f"--to={tmp_path / 'merged'}").status == 0
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    kept = re.sub(r"lora:\n(  .*\n)+", "", (folder / "config.yaml").read_text())
    (tmp_path / "plain.yaml").write_text(kept)
    merged = run(
        "evaluate", "--config", tmp_path / "plain.yaml", f"--model.source={tmp_path / 'merged'}",
        f"--train.output_dir={tmp_path / 'none'}",
    )
    assert f"held-out loss {loss} nats" in merged.out, merged.err
    told = run("export", given, f"--to={tmp_path / 'adapter'}", "--adapter")
    assert told.status == 0 and "the adapters of step 6 are in" in told.out
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(base)


REFUSED = {
    "another rank": ({"lora__rank": 4}, r"another model \(lora.rank: checkpoint 3, this run 4\)"),
    "another alpha": ({"lora__alpha": 3}, r"lora.alpha: checkpoint 16.0, this run 3.0"),
    "no adapters": ({"lora__rank": 0, "lora__projections": "[query,key,value,output]"},
                    r"lora.rank: checkpoint 3, this run 0"),
    "other leaves": ({"train__trainable": "[last.scale]"},
                     r"trains other leaves: last.scale was frozen and is to be trained; keep"),
    "no such leaf": ({"train__trainable": "[layers.mpl.*]"},
                     r"train.trainable=layers.mpl.\* fits no leaf of the model; the leaves are"),
    "no leaf": ({"train__trainable": "[]"}, r"train.trainable=\[\] names nothing that trains"),
    "no list": ({"train__trainable": "head"}, r"must be a list of names such as \[head,last.\*\]"),
    "no projection": ({"lora__projections": "[]"}, r"lora.projections=\[\] leaves no projection"),
    "twice": ({"lora__projections": "[up,up]"}, r"names up twice; name it once"),
    "unknown": ({"lora__projections": "[qkv]"}, r"must be a list of query, key, value, output,"),
    "negative": ({"lora__rank": -1}, r"lora.rank=-1: must not be negative; use 0 or more"),
    "without a rank": ({"lora__rank": 0}, r"lora.projections=\['query', 'value', 'down'\] has no"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_in_one_line(changes, told, tuned, base, source):
    folder, _ = tuned
    settings = {"model__source": base, "train__num_steps": 8, **LORA} | changes
    outcome = run(*command_line(folder, source, **settings))
    assert outcome.status == 2 and re.search(told, outcome.err), outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_adapters_alone_need_what_they_adapt(first_run, source, tmp_path):
    folder = tmp_path / "fresh"
    start = command_line(
        folder, source, train__num_steps=2, lora__rank=2, train__trainable="[head,'*norm*']",
    )
    outcome = run(*start)
    assert outcome.status == 0, outcome.err
    assert "(LoRA rank 2 on query, key, value, output; head, *norm*)" in outcome.out


    def export(of, *more):
        return run("export", f"--train.output_dir={of}", f"--to={tmp_path / 'to'}", *more)

    refused = export(folder, "--adapter").err
    assert "trained more than the adapters, which --adapter would leave out" in refused
    assert "the model has no adapters (lora.rank=0)" in export(first_run[0], "--adapter").err
    assert export(folder).status == 0
