"""`python -m seq1f1b_jax.explore` with plans of files, several plans, pictures and the search."""

import pytest

from seq1f1b_jax.explore.__main__ import main
from seq1f1b_jax.schedule import make_plan, peak_units
from seq1f1b_jax.schedule.files.plan_file import read_plan, write_plan
from tests.schedule.command import row, run, sizes_of

ARGUMENTS = ["seq1f1b", "--ranks", "2", "--microbatches", "2", "--chunks", "2"]


# Plan files.


@pytest.mark.parametrize("suffix", [".csv", ".txt", ""])
def test_a_plan_file_brings_its_sizes(capsys, tmp_path, suffix):
    path = tmp_path / f"plan{suffix}"
    write_plan(make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2), path)
    out = run(capsys, str(path), "--ranks", "2")
    assert out.startswith("seq1f1b: ranks=2 microbatches=2 chunks=2 exchange=parity")
    assert row(out, "peak units, by rank") == ["3 2"]
    assert "closed form" not in out


@pytest.mark.parametrize("name", ["saved.csv", "saved.txt"])
def test_save_writes_a_plan_that_reads_back(capsys, tmp_path, name):
    out = run(capsys, *sizes_of("seq1f1b-i"), "--short-warmup", "--save", str(tmp_path / name))
    assert f"plan: {tmp_path / name}" in out
    sizes = {"num_ranks": 3, "num_microbatches": 4, "num_chunks": 3}
    assert read_plan(tmp_path / name) == make_plan("seq1f1b-i", **sizes, short_warmup=True)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--ranks", "4"], "--ranks 4 contradicts num_ranks=2"),
        (["--chunks", "1"], "--chunks 1 contradicts num_chunks=2"),
        (["--stages-per-rank", "2"], "--stages-per-rank 2 contradicts stages_per_rank=1"),
        (["--extra-warmup", "1"], "--extra-warmup cannot change"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sizes_that_contradict_a_plan_file_are_refused(capsys, tmp_path, words, reported):
    write_plan(
        make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2), tmp_path / "a.csv"
    )
    assert main([str(tmp_path / "a.csv"), *words]) == 2
    assert reported in capsys.readouterr().err


def test_a_file_that_names_no_exchange_reports_which_it_gets(capsys, tmp_path):
    plan = make_plan("1f1b-lockstep", num_ranks=4, num_microbatches=8, num_chunks=1)
    (tmp_path / "a.txt").write_text(plan.text().replace(" exchange=lockstep", ""))
    title, reported, *_ = run(capsys, str(tmp_path / "a.txt")).splitlines()
    assert title.startswith("1f1b-lockstep: ranks=4 microbatches=8 chunks=1 exchange=lockstep")
    assert reported == (
        "exchange=lockstep, faster for this order: a step of 33, with parity 39 (F=1 B=2)"
    )


def test_a_plan_for_torch_says_what_became_of_the_chunks(capsys, tmp_path):
    path = tmp_path / "mine.csv"
    out = run(capsys, *ARGUMENTS, "--save", str(path), "--format", "torch")
    assert out.splitlines()[-1] == (
        f"plan: {path}, as torch writes it: chunk c of microbatch m is its microbatch m*2+c (it"
        " runs those independently); read it back with --chunks 2"
    )
    assert path.read_text().startswith("0F0,0F1,0F2,0B1,")
    assert "ranks=2 microbatches=2 chunks=2" in run(capsys, str(path), "--chunks", "2")
    assert "ranks=2 microbatches=4 chunks=1" in run(capsys, str(path))
    compared = run(capsys, *ARGUMENTS, "--compare", str(path))
    assert row(compared, "chunks") == ["2", "2"]
    assert row(compared, "exchange") == ["parity", "parity"]
    whole = run(capsys, "1f1b", *ARGUMENTS[1:5], "--save", str(path), "--format", "torch")
    assert whole.splitlines()[-1] == f"plan: {path}, as torch writes it"
    assert row(run(capsys, *ARGUMENTS, "--compare", str(path)), "chunks") == ["2", "1"]


@pytest.mark.parametrize("name", ["my plan.csv", "größe.csv", "a,b #c;d.csv", "sub/../a.csv"])
@pytest.mark.parametrize("form", ["own", "torch"])
def test_any_path_is_written_and_read_as_typed(capsys, tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "sub").mkdir(parents=True)
    (tmp_path / "sub").mkdir()
    words = ["1f1b", *ARGUMENTS[1:5]]
    for folder, real in (("", tmp_path), ("~/", tmp_path / "home"), ("./", tmp_path)):
        typed = folder + name
        out = run(capsys, *words, "--save", typed, "--format", form, "--draw", typed + ".json")
        assert f"plan: {typed}" in out and f"picture: {typed}.json" in out
        assert (real / name).is_file() and (real / f"{name}.json").is_file()
        out = run(capsys, typed, "--save", typed, "--compare", typed)  # its name fits a header
        assert "ranks=2 microbatches=2 chunks=1 exchange=parity" in run(capsys, typed)
        (real / name).unlink()


def test_a_plan_that_cannot_run_is_drawn(capsys, tmp_path):
    (tmp_path / "a.csv").write_text("F0.0,B0.0\nB0.0,F0.0\n")
    assert main([str(tmp_path / "a.csv")]) == 2
    message, *grid = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: {tmp_path / 'a.csv'}, line 2, column 1: plan a, rank 1")
    assert grid[1].startswith("rank 1  >B0.0<")


# Several plans.


def test_compared_plans_do_the_same_work(capsys):
    out = run(capsys, *ARGUMENTS, "--compare", "1f1b", "seq1f1b-i", "seq-zb-h1")
    assert row(out, "comparison") == ["seq1f1b", "1f1b", "seq1f1b-i", "seq-zb-h1"]
    assert row(out, "chunks") == ["2", "1", "2", "2"]
    assert row(out, "times of a unit on a rank")[:3] == ["F=1 B=2", "F=2 B=4", "F=1 B=2"]
    # (P-1)(f+b)/C, without chunks, over V, and without two W of it
    bubbles = list(map(float, out.split("comparison")[1].split("bubble time")[1].split()[:4]))
    assert bubbles == [3, 6, 1.5, 1]
    assert row(out, "step time over the first")[1] == "1.2000"  # 18/15
    assert row(out, "executor over asynchronous") == ["1.0000"] * 4


def test_a_comparison_leads_with_what_will_run(capsys):
    words = ["1f1b-i", "--ranks", "4", "--microbatches", "16", "--short-warmup"]
    out = run(capsys, *words, "--compare", "1f1b")
    table = out[out.index("comparison") :]
    executor, asynchronous = (
        [float(time) for time in row(table, f"step time, {machine}")]
        for machine in ("executor", "asynchronous")
    )
    assert executor[0] > executor[1] and asynchronous[0] < asynchronous[1]
    ratios = [float(ratio) for ratio in row(table, "step time over the first")]
    assert ratios == pytest.approx([1, executor[1] / executor[0]], abs=1e-4)
    assert table.index("step time, executor") < table.index("step time, asynchronous")


@pytest.mark.parametrize("asked", [None, "asynchronous"])
def test_a_picture_shows_what_will_run_unless_asked_otherwise(capsys, tmp_path, asked):
    words = ["1f1b-i", "--ranks", "4", "--microbatches", "8", "--short-warmup"]
    words += ["--machine", asked] if asked else []
    run(capsys, *words, "--draw", str(tmp_path / "a.json"))
    assert f"{asked or 'executor'} machine" in (tmp_path / "a.json").read_text("utf-8")


def test_an_option_reaches_the_compared_plan_that_takes_it(capsys):
    out = run(capsys, *ARGUMENTS, "--stages-per-rank", "3", "--compare", "seq1f1b-i", "1f1b-i")
    assert row(out, "stages per rank") == ["1", "3", "3"]


def test_a_plan_file_can_be_compared(capsys, tmp_path):
    write_plan(make_plan("gpipe", num_ranks=2, num_microbatches=2, num_chunks=1), tmp_path / "a")
    out = run(capsys, *ARGUMENTS, "--compare", str(tmp_path / "a"))
    assert row(out, "comparison") == ["seq1f1b", "gpipe"]
    assert row(out, "peak in microbatches")[0] == "1.5"
    last = [line for line in out.splitlines() if line.startswith("peak in microbatches")][-1]
    assert last.split()[-2:] == ["1.5", "2"]


def test_other_work_does_not_compare(capsys, tmp_path):
    write_plan(make_plan("1f1b", num_ranks=2, num_microbatches=3, num_chunks=1), tmp_path / "a")
    assert main([*ARGUMENTS, "--compare", str(tmp_path / "a")]) == 2
    assert "has num_microbatches=3 and seq1f1b has 2" in capsys.readouterr().err


# Pictures and the search.


@pytest.mark.parametrize("suffix", ["svg", "png", "html", "json"])
def test_draw_writes_a_picture_of_all_plans(capsys, tmp_path, suffix):
    path = tmp_path / f"both.{suffix}"
    out = run(capsys, *ARGUMENTS, "--compare", "1f1b", "--draw", str(path))
    assert f"picture: {path}" in out
    assert path.stat().st_size > 1000
    if suffix != "png":
        text = path.read_text("utf-8")
        assert "seq1f1b P=2 M=2 C=2" in text and "1f1b P=2 M=2 C=1" in text


def test_search_finds_a_plan_within_the_memory_and_ranks_the_named(capsys, tmp_path):
    words = ["--ranks", "2", "--microbatches", "3", "--memory", "2"]
    path = tmp_path / "best.csv"
    out = run(capsys, "--search", *words, "--save", str(path), "--compare", "1f1b")
    assert out.startswith("search: step time 12 on the executor machine with at most 2 units")
    assert "gpipe" in out and "timeline (F=1 B=2" in out
    plan = read_plan(path)
    assert (plan.num_ranks, plan.num_microbatches) == (2, 3)
    assert max(peak_units(plan)) <= 2
    assert row(out, "step time over the first") == ["1.0000", "1.0000"]  # 1F1B is optimal here
