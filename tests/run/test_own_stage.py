"""A model of one's own through the command line: as any other, and refused where it is wrong."""

import json
import signal

import pytest
import yaml

from seq1f1b_jax.training.setup import mlp_sizes
from tests.pipeline.own_stage import OwnStage
from tests.run.test_bad_input import assert_one_line
from tests.run.test_resume import assert_same_run
from tests.run.tiny import Child, checkpoint_steps, command_line, held_out_losses, losses, run

NAME = "tests.pipeline.own_stage:OwnStage"
OWN = {"model__stage": NAME, "model__settings": '{"vocab_size": 256, "num_layers": 4}'}
NUM_STEPS = 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("runs") / "own"
    return folder, run(*command_line(folder, source, **OWN, train__sample_tokens=8))


@pytest.fixture
def own(trained):
    folder, outcome = trained
    assert outcome.status == 0, outcome.err
    return folder


def test_it_trains_saves_and_samples(own, trained):
    told = trained[1].out
    assert f"model     {NAME}, " in told and "4 layers of width 8" in told
    assert "sampled from the trained model:" in told
    assert checkpoint_steps(own) == [2, 4, 6]
    assert losses(own)[5] < losses(own)[0]
    line = json.loads((own / "metrics.jsonl").read_text().splitlines()[0])
    assert line["model_flops_per_second"] > 0
    kept = yaml.safe_load((own / "config.yaml").read_text())["model"]
    assert kept["stage"] == NAME and kept["settings"] == {"vocab_size": 256, "num_layers": 4}


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_other_commands_find_it_in_the_runs_folder(command, own):
    extra = ["--num_tokens=6", "--prompt=the"] if command == "generate" else []
    outcome = run(command, f"--train.output_dir={own}", *extra)
    assert outcome.status == 0, outcome.err
    if command == "evaluate":
        assert f"step 6: held-out loss {held_out_losses(own)[5]:.4f} nats" in outcome.out
    else:
        assert outcome.out.startswith("the") and len(outcome.out) > len("the\n")


def test_export_is_refused_with_the_reason(own, tmp_path):
    outcome = run("export", f"--to={tmp_path / 'out'}", f"--train.output_dir={own}")
    assert_one_line(outcome, ["export", f"model.stage={NAME}", "Trainer.params()"])


@pytest.mark.slow
def test_kill_9_and_resume_is_bit_equal(cache, source, tmp_path):
    changes = {**OWN, "train__num_steps": NUM_STEPS, "checkpoint__every": 1}
    started = []

    def start(name):
        folder = tmp_path / name
        started.append(Child(cache, command_line(folder, source, **changes), folder))
        return started[-1]

    try:
        whole = start("whole")
        assert whole.end() == 0, whole.told()
        part = start("part")
        part.wait_for_step(3)
        assert part.end(signal.SIGKILL) == -signal.SIGKILL, part.told()
        assert 3 <= len(losses(part.folder)) < NUM_STEPS
        rest = start("part")
        assert rest.end() == 0, rest.told()
        assert f"continuing {rest.folder} after step " in rest.told()
        assert_same_run(rest.folder, whole.folder)
    finally:
        for child in started:
            child.kill()


@pytest.mark.slow
def test_settings_by_name_in_a_recipe_and_packed_documents(source, tmp_path):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"model: {{stage: '{NAME}', settings: {{vocab_size: 256}}}}\n")
    words = command_line(
        tmp_path / "run", source, data__packing="documents", train__num_steps=2,
        schedule__documents="corpus", model__stage=NAME,
    )
    words = [word for word in words if not word.startswith("--model.")]
    outcome = run("--config", str(recipe), *words, "--model.settings.num_layers", "2")
    assert outcome.status == 0, outcome.err
    assert "2 layers of width 8" in outcome.out
    assert "packed documents fill" in outcome.out


REFUSED = {
    "no such module": (
        {"model__stage": "nowhere.mod:Own"},
        ["model.stage=nowhere.mod:Own: nowhere.mod was not found", "PYTHONPATH"],
    ),
    "no such class": (
        {"model__stage": "tests.pipeline.own_stage:OwnStag"},
        ["has no 'OwnStag'", "did you mean 'OwnStage'?"],
    ),
    "no class": ({"model__stage": "tests.run.test_own_stage:NAME"}, ["is a str", "name a class"]),
    "no colon": ({"model__stage": "own_stage"}, ["model.stage='own_stage'", "module:Class"]),
    "no such setting": (
        {"model__stage": NAME, "model__settings": '{"width": 3}'},
        [f"model.stage={NAME} cannot be made", "'width': 3", "unexpected keyword argument"],
    ),
    "a size of another type": (
        {"model__stage": NAME, "model__settings": '{"num_layers": "many"}'},
        ["OwnStage.num_layers is 'many'", "whole number"],
    ),
    "a broken rule": (
        {"model__stage": "tests.pipeline.mixing_stages:ShiftInPre"},
        ["ShiftInPre.pre returned q that depends on other tokens", "token-wise"],
    ),
    "no stage": (
        {"model__stage": "tests.pipeline.broken_stages:NoFinal"}, ["NoFinal has no vocab_size"],
    ),
    "a vocabulary too small for the data": (
        {"model__stage": NAME},
        ["token id ", "vocab_size=11; raise model.settings.vocab_size\n"],
    ),
    "sizes of our families": (
        {"model__stage": NAME, "model__num_layers": 3},
        ["--model.num_layers is a setting of the built-in", "--model.settings.NAME VALUE"],
    ),
    "layers that cannot be sharded": (OWN | {"mesh__tensor": 2}, ["shard", "--mesh.tensor 1"]),
    "settings of nothing": (
        {"model__settings": '{"width": 3}'}, ["model.settings.width=3", "model.stage names none"],
    ),
    "two models": (
        {"model__stage": NAME, "model__source": "x.gguf"}, ["--model.source", "another model"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes, told", REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_one_line(changes, told, tmp_path, source):
    assert_one_line(run(*command_line(tmp_path / "run", source, **changes)), told)
    assert not (tmp_path / "run").exists()


BROKEN = {
    "imports_missing": ("import nowhere", "No module named 'nowhere' (", ".py:1)"),
    "no_python": ("x = 1\ndef (", "no_python failed: SyntaxError: ", ".py:2)"),
    "ends": ("raise SystemExit(0)", "importing ends failed: SystemExit: 0 (", ".py:1)"),
    "raises": (
        "def Own():\n    raise RuntimeError('no luck')",
        "cannot be made with model.settings={}: RuntimeError: no luck (", ".py:2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_users_module_raises_is_one_line_with_its_place(name, tmp_path, monkeypatch, source):
    text, *told = BROKEN[name]
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = run(*command_line(tmp_path / "run", source, model__stage=f"{name}:Own"))
    assert_one_line(outcome, [f"model.stage={name}:Own", *told])
    assert "PYTHONPATH" not in outcome.err


@pytest.mark.parametrize(
    "changes, told",
    [
        (
            {"model__settings": '{"vocab_size": 256, "num_layers": 5, "model_dim": 8}'},
            "(num_layers: checkpoint 4, this run 5; settings.num_layers: checkpoint 4, this run 5)",
        ),
        ({"model__settings": '{"vocab_size": 256}'}, "settings.num_layers: checkpoint 4, this run"),
        ({"model__stage": "tests.pipeline.cut_stage:CutStage"}, f"stage: checkpoint {NAME}, this"),
    ],
)
def test_a_checkpoint_of_another_stage_is_refused(changes, told, own, source):
    outcome = run(*command_line(own, source, **OWN | changes))
    assert_one_line(outcome, ["is of another model", told])


def test_the_mlp_is_counted_where_a_stage_does_not_tell_it():
    stage = OwnStage(mlp_dim=48)
    assert mlp_sizes(stage) == (48, False)
