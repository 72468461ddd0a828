"""`python -m seq1f1b_jax.explore`: what it prints, loads and refuses."""

import argparse
import subprocess
import sys

import pytest

from seq1f1b_jax.explore.__main__ import main
from seq1f1b_jax.explore.command.options import parser
from seq1f1b_jax.schedule import SCHEDULES
from tests.schedule.command import row, run, sizes_of

SIZES = ["--ranks", "2", "--microbatches", "2", "--chunks", "2"]
ARGUMENTS = ["seq1f1b", *SIZES]

REPORT = """\
seq1f1b: ranks=2 microbatches=2 chunks=2 exchange=parity, 4 units of work on every rank

order of work (F forward, B backward, then microbatch.chunk)
rank 0  F0.0 F0.1 F1.0 B0.1 F1.1 B0.0 B1.1 B1.0
rank 1  F0.0 F0.1 B0.1 F1.0 B0.0 F1.1 B1.1 B1.0

timeline (F=1 B=2, one column is 1)
rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....

                      simulated  closed form
step time             15         15
bubble time           3          3            (P-1)(F+B)
bubble fraction       0.2000     0.2000
peak units, by rank   3 2        3 2          min(P-p-1+C, M*C)
peak in microbatches  1.5        1.5          units/(V*C)
idle time, by rank    3 3

machine       step time  bubble fraction  over asynchronous
executor      15         0.2000           1.0000
asynchronous  15         0.2000           1.0000
lock-step     20         0.4000           1.3333

critical path: 10 actions (5 F, 5 B) from F0.0 on rank 0 to B1.0 on rank 0, 2 changes of rank

chunk lengths            512 488    tokens
ticks                    12
cache, by rank           1512 1024  tokens
prefix slots, by rank    1 1        microbatches
inbox slots, by rank     1 1        messages
residual arena, by rank  1512 1024  tokens
"""


def test_report(capsys):
    assert run(capsys, *ARGUMENTS, "--seq-len", "1000") == REPORT


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("backward", ["2", "2.5"])
def test_simulated_figures_equal_the_closed_forms(capsys, name, backward):
    out = run(capsys, *sizes_of(name), "--backward", backward)
    for figure in (
        *("step time ", "bubble time", "bubble fraction", "peak units, by rank"),
        "peak in microbatches",
    ):
        simulated, closed_form, *_ = row(out, figure)
        assert simulated == closed_form, figure
    assert row(out, "executor")[2] == "1.0000"


def test_costs_without_a_common_measure_are_not_drawn(capsys):
    out = run(capsys, *ARGUMENTS, "--backward", "2.003")
    assert "one column is 0.001): 15015 columns, not drawn; --full draws it" in out
    out = run(capsys, *ARGUMENTS, "--backward", "2.003", "--full")
    assert max(map(len, out.splitlines())) > 15_000


def test_stages_share_the_time_of_their_rank(capsys):
    plain = run(capsys, *sizes_of("seq1f1b"), "--backward", "4")
    thirds = run(capsys, *sizes_of("seq1f1b-i"), "--stages-per-rank", "3", "--backward", "4")
    assert "F=1 B=4 in 3 stages, one column is 0.333333" in thirds
    work = [
        float(row(out, "step time ")[0]) - float(row(out, "bubble time")[0])
        for out in (plain, thirds)
    ]
    assert work == pytest.approx([60, 60], rel=1e-5)  # 12 units of 5
    assert float(row(thirds, "bubble time")[0]) == pytest.approx(10 / 3, rel=1e-5)


def test_split_backwards_name_their_halves_and_what_is_deferred(capsys):
    out = run(capsys, *sizes_of("seq-zb-h1"), "--weights", "0.5", "--seq-len", "96")
    assert "(F forward, I input gradient, W weight gradient, then microbatch.chunk)" in out
    assert "(F=1 I=1.5 W=0.5, one column is 0.5)" in out
    assert max(map(int, row(out, "deferred to W, by rank")[0].split())) > 0


@pytest.mark.parametrize("machine", ["asynchronous", "lock-step"])
def test_another_machine_is_named_and_its_time_shown(capsys, machine):
    out = run(capsys, *ARGUMENTS, "--transfer", "1", "--machine", machine)
    assert f"timeline, {machine} (F=1 B=2" in out
    assert row(out, "step time ")[0] == row(out, machine)[0]
    assert row(out, "asynchronous")[0] < row(out, "executor")[0] < row(out, "lock-step")[0]


def test_what_will_run_leads_where_the_machines_differ(capsys):
    out = run(capsys, *sizes_of("seq1f1b-i"), "--short-warmup")
    assert "timeline, executor (F=1 B=2 in 2 stages" in out
    executor, asynchronous = (row(out, machine)[0] for machine in ("executor", "asynchronous"))
    assert row(out, "step time ")[0] == executor and float(executor) > float(asynchronous)
    assert out.index("\nexecutor ") < out.index("\nasynchronous ")


def test_a_bubble_that_holds_on_other_machines_says_where(capsys):
    out = run(capsys, *ARGUMENTS, "--machine", "lock-step")
    assert row(out, "bubble time") == ["8", "3", "(P-1)(F+B) (asynchronous and executor)"]


def test_transfers_stretch_the_step_and_leave_no_closed_form(capsys):
    out = run(capsys, *ARGUMENTS, "--transfer", "1/2", "--machine", "asynchronous")
    assert "(F=1 B=2 transfer=0.5, one column is 0.5)" in out
    assert row(out, "step time ") == ["17"]
    assert "2 in transfers" in out


def test_without_a_name_the_schedules_are_listed(capsys):
    lines = run(capsys).splitlines()
    assert [line.split()[0] for line in lines[1 : len(SCHEDULES) + 1]] == list(SCHEDULES)
    assert "--extra-warmup" in row("\n".join(lines), "seq1f1b ")[-1]


# Bad input.


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["seq1f2b", *SIZES], "did you mean 'seq1f1b'"),
        (["1f1b", *SIZES], "num_chunks=2"),
        (["seq1f1b", "--microbatches", "2"], "seq1f1b needs --ranks"),
        (["seq1f1b", "--ranks", "2"], "seq1f1b needs --microbatches"),
        ([*ARGUMENTS, "--ranks", "0"], "'0' must be a whole number of at least 1"),
        ([*ARGUMENTS, "--ranks", "two"], "--ranks: 'two' must be a whole number"),
        ([*ARGUMENTS, "--chunks", "0"], "--chunks: '0' must be"),
        ([*ARGUMENTS, "--extra-warmup", "-1"], "'-1' must be a whole number of at least 0"),
        ([*ARGUMENTS, "--oops"], "--oops"),
        (["seq1f1b", "--stages", "2"], "--stages is now --ranks"),
        ([*ARGUMENTS, "--virtual", "2"], "--virtual is now --stages-per-rank"),
        ([*ARGUMENTS, "--stages-per-rank", "2"], "stages_per_rank=2 has no meaning for seq1f1b"),
        ([*ARGUMENTS, "--stages-per-rank", "2", "--compare", "1f1b"], "=2 has no meaning"),
        ([*ARGUMENTS, "--short-warmup"], "short_warmup=True has no meaning"),
        ([*ARGUMENTS, "--microbatches", "900000"], "make 7200000 actions, more than 1000000"),
        ([*ARGUMENTS, "--forward", "0"], "'0' must be a number above 0"),
        ([*ARGUMENTS, "--backward", "1/0"], "'1/0' must be"),
        ([*ARGUMENTS, "--backward", "1e999999999"], "'1e999999999' must be"),
        ([*ARGUMENTS, "--transfer", "-1"], "'-1' must be a number of at least 0"),
        (["seq-zb-h1", *SIZES, "--backward", "1"], "a W of 1 leaves nothing of a backward of 1"),
        ([*ARGUMENTS, "--machine", "clock"], "'clock'"),
        ([*ARGUMENTS, "--seq-len", "1"], "seq_len=1"),
        ([*ARGUMENTS, "--compare", "1f2b"], "'1f2b' is not known"),
        ([*ARGUMENTS, "--compare", "gone.csv"], "cannot read plan file gone.csv"),
        ([*ARGUMENTS, "--draw", "plan.pdf"], "plan.pdf"),
        ([*ARGUMENTS, "--draw", "gone/plan.svg"], "gone"),
        ([*ARGUMENTS, "--save", "gone/plan.csv"], "cannot write gone/plan.csv: gone is no folder"),
        ([*ARGUMENTS, "--save", "tests"], "cannot write tests: it names a folder"),
        ([*ARGUMENTS, "--draw", "tests/"], "cannot write tests/: it names a folder"),
        ([*ARGUMENTS, "--format", "torch"], "--format says how --save writes"),
        (["dualpipev", *SIZES], "puts its stages in a V"),
        (["two\nlines.csv"], r"cannot read plan file two\nlines.csv: No such file"),
        ([*ARGUMENTS, "--save", "two\nlines/a.csv"], r"two\nlines is no folder"),
        ([*ARGUMENTS, "--draw", "two\nlines"], r"'two\nlines'; end it in"),
        ([*ARGUMENTS, "two\nlines"], r"unrecognized arguments: two\nlines"),
        (["~nobody-by-this-name/a.csv"], "~nobody-by-this-name/a.csv: there is no such user"),
        (["gone.csv"], "cannot read plan file gone.csv: No such file"),
        (["tests"], "cannot read plan file tests"),
        ([*ARGUMENTS, "--memory", "3"], "--memory is for --search"),
        ([*ARGUMENTS, "--search"], "'seq1f1b' is another"),
        (["--search", "--ranks", "2"], "--search needs sizes"),
        (["--search", *SIZES, "--memory", "1"], "max_units=1"),
        (["--ranks", "2"], "--ranks needs a schedule"),
        (["--draw", "a.svg"], "--draw needs a schedule"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(capsys, words, reported):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert reported in captured.err


def test_every_option_is_explained():
    actions = [a for a in parser()._actions if not isinstance(a, argparse._HelpAction)]
    assert len(actions) > 15
    assert [action.dest for action in actions if not action.help] == []


# What it loads.


def test_command_runs_with_numpy_and_the_standard_library_only():
    program = f"""
import runpy, sys
for name in ("jax", "jaxlib", "flax", "optax", "orbax", "jaxtyping", "matplotlib"):
    sys.modules[name] = None  # importing it raises
before = set(sys.modules)
sys.argv = ["explore", *{ARGUMENTS!r}, "--compare", "1f1b", "--seq-len", "64"]
try:
    runpy.run_module("seq1f1b_jax.explore", run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
loaded = {{name for name in loaded if "cython" not in name}}  # what numpy.random is made with
print(sorted(loaded - set(sys.stdlib_module_names)))
print("seq1f1b_jax.picture" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["['numpy', 'seq1f1b_jax']", "False"]


def test_the_former_command_names_the_new_one():
    command = [sys.executable, "-m", "seq1f1b_jax.schedule", *ARGUMENTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: this command is now python -m seq1f1b_jax.explore\n"


def test_a_reader_that_leaves_early_gets_no_traceback():
    words = ["seq1f1b", "--ranks", "8", "--microbatches", "100", "--chunks", "4"]
    command = [sys.executable, "-m", "seq1f1b_jax.explore", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
