"""`python -m seq1f1b_jax.schedule`, the docstrings' examples, and what the package imports."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

from seq1f1b_jax import schedule
from seq1f1b_jax.schedule.__main__ import main

ARGUMENTS = ["seq1f1b", "--stages", "2", "--microbatches", "2", "--chunks", "2"]

REPORT = """\
seq1f1b: stages=2 microbatches=2 chunks=2, 4 units of work on every rank

order of work (F forward, B backward, then microbatch.chunk)
rank 0  F0.0 F0.1 F1.0 B0.1 F1.1 B0.0 B1.1 B1.0
rank 1  F0.0 F0.1 B0.1 F1.0 B0.0 F1.1 B1.1 B1.0

course of time (F=1 B=2, one column is 1)
rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....

                     simulated  closed form
step time            15
bubble time          3          3            (P-1)(F+B)
bubble fraction      0.2000     0.2000       (P-1)/(P-1+M*C)
peak units, by rank  3 2        3 2          min(P-p-1+C, M*C)

chunk lengths            512 488    tokens
ticks                    12
cache slots, by rank     2 2        microbatches
residual arena, by rank  1512 1024  tokens
"""


def test_report(capsys):
    assert main([*ARGUMENTS, "--seq-len", "1000"]) == 0
    assert capsys.readouterr().out == REPORT


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "seq1f1b"])
@pytest.mark.parametrize("stages", ["1", "3"])
def test_simulated_figures_equal_the_closed_forms(capsys, name, stages):
    chunks = "1" if name == "1f1b" else "3"
    sizes = ["--stages", stages, "--microbatches", "4", "--chunks", chunks, "--backward", "2.5"]
    assert main([name, *sizes]) == 0
    out = capsys.readouterr().out
    assert "F=1 B=2.5, one column is 0.5" in out
    for figure in ("bubble time", "bubble fraction", "peak units, by rank"):
        row = next(line for line in out.splitlines() if line.startswith(figure))
        simulated, closed_form, _rule = [word for word in row[21:].split("  ") if word.strip()]
        assert simulated.strip() == closed_form.strip()


def test_costs_without_a_common_measure_are_not_drawn(capsys):
    assert main([*ARGUMENTS, "--backward", "2.003"]) == 0
    assert "one column is 0.001): more than 1000 columns, not drawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({0: "seq1f2b"}, "did you mean 'seq1f1b'"),
        ({0: "1f1b"}, "num_chunks=2"),
        ({2: "0"}, "num_stages=0"),
        ({2: "two"}, "--stages: invalid int value: 'two'"),
        ({5: "--oops"}, "--oops"),
        ({7: "--forward", 8: "0"}, "'0' must be a number above 0"),
        ({7: "--backward", 8: "1/0"}, "'1/0' must be"),
        ({7: "--seq-len", 8: "1"}, "seq_len=1"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_bad_input_is_one_line_and_status_2(capsys, change, reported):
    words = dict(enumerate(ARGUMENTS)) | change
    try:
        status = main([words[i] for i in sorted(words)])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert reported in captured.err


def test_command_runs_with_numpy_and_the_standard_library_only():
    program = f"""
import runpy, sys
for name in ("jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping"):
    sys.modules[name] = None  # importing it raises
before = set(sys.modules)
sys.argv = ["schedule", *{ARGUMENTS!r}]
try:
    runpy.run_module("seq1f1b_jax.schedule", run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(sorted(loaded - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['numpy', 'seq1f1b_jax']"


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.iter_modules(schedule.__path__)]
)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"seq1f1b_jax.schedule.{name}")
    examples = {key: getattr(schedule, key) for key in schedule.__all__}
    assert doctest.testmod(module, extraglobs=examples).failed == 0
