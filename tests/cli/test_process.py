"""`train.py` as a process: what it prints where, its exit status, and what it imports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import train
from seq1f1b_jax.cli.keys import sections

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["", "evaluate", "generate"])
def test_help_and_errors_do_without_jax(command):
    code = (
        "import sys, train\n"
        "try: train.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert train.main(['--model.num_layer', '3']) == 2\n"
        "print('JAX', 'jax' in sys.modules, 'numpy' in sys.modules)\n"
    )
    arguments = [*filter(None, [command]), "--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "--model.num_layers" in done.stdout
    assert done.stdout.splitlines()[-1] == "JAX False False"


BAD = [
    (["--model.num_layer", "12"], "did you mean '--model.num_layers'?"),
    (["--config", "nofile.yaml"], "nofile.yaml does not exist"),
    (["--model.num_layers", "abc"], "model.num_layers='abc' must be a whole number"),
    (["--model.num_layers", "3", "--mesh.pipe", "5"], "num_layers=3 is fewer than mesh.pipe=5"),
    (["--model.preset", "2.8b"], "2.8b"),
    (["--mesh.pipe", "4", "--mesh.virtual_devices", "2"], "2 are present"),
]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        # a process that imports JAX costs seconds: every day the one that goes furthest
        pytest.param(*case, marks=() if case in (BAD[0], BAD[-1]) else pytest.mark.slow)
        for case in BAD
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_on_stderr_and_status_2(arguments, told):
    done = run(*arguments)
    assert_refused(done.returncode, done.stdout, done.stderr, told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    BAD[:-1],  # devices cannot become fewer here
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_the_same_within_a_process(arguments, told, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert_refused(train.main(arguments), *capsys.readouterr(), told)


def assert_refused(status, out, err, told):
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert told in err


def test_printed_configuration_is_whole_and_reads_back(tmp_path, capsys, monkeypatch):
    printed = run("--model.preset", "2.7b", "--model.num_layers", "12", "--print_config")
    assert printed.returncode == 0
    tree = yaml.safe_load(printed.stdout)
    assert (tree["model"]["num_layers"], tree["model"]["model_dim"]) == (12, 2560)
    assert set(tree) == set(sections())
    path = tmp_path / "printed.yaml"
    path.write_text(printed.stdout, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", str(path), "--print_config"]) == 0
    assert capsys.readouterr().out == printed.stdout


@pytest.mark.parametrize("module", ["yaml", "jax"])
def test_ctrl_c_within_an_import_is_a_line_and_status_130(module, tmp_path):
    (tmp_path / f"{module}.py").write_text("import signal; signal.raise_signal(signal.SIGINT)")
    done = run("--model.num_layers", "4", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\ninterrupted\n")


def test_a_module_called_models_on_the_path_is_nobodys_business(tmp_path):
    (tmp_path / "models.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    code = "import sys, train; sys.exit(train.main(['--print_config']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
