"""The plan of a run: named or from a file, what is said about it and drawn of it; its chunks and
layers."""

from pathlib import Path

import pytest

from seq1f1b_jax.config import Config, DataConfig, MeshConfig, ScheduleConfig
from seq1f1b_jax.data import load_corpus, make_data
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.plan.order import choose_plan, chunk_lengths
from seq1f1b_jax.schedule import (
    Costs,
    Exchange,
    PlanError,
    StageCost,
    draw_simulation,
    make_plan,
    simulate,
)
from seq1f1b_jax.schedule.files.plan_file import write_plan
from seq1f1b_jax.training.preview.header import GRID_WIDTH, describe, draw_course
from seq1f1b_jax.training.preview.predict import predict
from seq1f1b_jax.training.setup import make_setup

TORCH = Path(__file__).parents[1] / "schedule" / "torch_plans"
INTERLEAVED = str(TORCH / "Interleaved1F1B_P2_M4_V2.compute.csv")


def test_a_file_without_exchange_is_told_in_one_line(tmp_path):
    path = tmp_path / "two\nlines.txt"
    longer = make_plan("1f1b-lockstep", num_ranks=4, num_microbatches=8, num_chunks=1)
    path.write_text(longer.text().replace(" exchange=lockstep", ""))
    config = ScheduleConfig(plan=str(path), num_microbatches=8, num_chunks=1)
    plan, (told,) = choose_plan(config, num_ranks=4)
    assert plan == longer
    assert told.startswith("schedule.plan=") and r"two\nlines.txt: exchange=lockstep" in told
    assert "a step of 33, with parity 39" in told
    write_plan(longer, path)
    assert choose_plan(config, num_ranks=4) == (longer, ())


def test_a_plan_of_torch_trains_with_the_chunks_of_the_run():
    config = ScheduleConfig(plan=INTERLEAVED, num_microbatches=4, num_chunks=1)
    plan, (told,) = choose_plan(config, num_ranks=2)
    assert (plan.stages_per_rank, plan.exchange) == (2, Exchange.LOCKSTEP)
    assert "exchange=lockstep, faster for this order: a step of 27, with parity 39" in told
    config = ScheduleConfig(plan=INTERLEAVED, num_microbatches=2, num_chunks=2)
    with pytest.raises(PlanError, match=r"needs num_chunks=1\): .* B0\.0@2 comes before B0\.1@2"):
        choose_plan(config, num_ranks=2)
    config = ScheduleConfig(plan=INTERLEAVED, num_microbatches=8, num_chunks=1)
    with pytest.raises(ValueError, match="num_microbatches=4, the run 8; use --schedule.num_micro"):
        choose_plan(config, num_ranks=2)


def test_a_saved_plan_of_chunks_comes_back_from_torchs_form(tmp_path):
    made = make_plan("seq-zb-h1", num_ranks=2, num_microbatches=4, num_chunks=2)
    write_plan(made, tmp_path / "zb.csv", form="torch")
    config = ScheduleConfig(plan=str(tmp_path / "zb.csv"), num_microbatches=4, num_chunks=2)
    assert choose_plan(config, num_ranks=2)[0].ranks == made.ranks


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_plan(make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1), "~/größe 1.csv")
    assert (tmp_path / "größe 1.csv").is_file()
    config = ScheduleConfig(plan="~/größe 1.csv", num_microbatches=2, num_chunks=1)
    assert choose_plan(config, num_ranks=2)[0].name == "1f1b"


def test_what_is_drawn_is_what_the_executor_will_do():
    sizes = {"num_ranks": 4, "num_microbatches": 4, "num_chunks": 1}
    plan = make_plan("1f1b-i", **sizes, short_warmup=True)
    costs = Costs(forward=1, backward=2)
    executor, asynchronous = (
        draw_simulation(simulate(plan, costs, machine=machine), max_width=GRID_WIDTH)
        for machine in ("executor", "asynchronous")
    )
    assert draw_course(plan) == executor != asynchronous


def test_a_long_course_ends_at_the_width_and_says_so():
    *rows, left = draw_course(
        make_plan("seq1f1b", num_ranks=4, num_microbatches=16, num_chunks=2)
    ).splitlines()
    assert {row[-4:] for row in rows} == {" ..."}
    assert max(map(len, rows)) <= GRID_WIDTH
    assert left.startswith("(columns 0 to ") and left.endswith(" of 105)")


@pytest.mark.parametrize(
    ("num_ranks", "tile", "lengths"),
    [
        (1, 256, (1024, 1024, 1024, 1024)),
        (1, None, (1024, 1024, 1024, 1024)),
        (4, 256, (1408, 1024, 896, 768)),  # tiles would cost the slowest chunk 6 %
    ],
)
def test_one_rank_has_even_chunks_and_several_have_equal_costs(num_ranks, tile, lengths):
    config = Config(schedule=ScheduleConfig(num_chunks=4), data=DataConfig(seq_len=4096))
    cost = StageCost(
        model_dim=512, num_heads=8, num_kv_heads=8, head_dim=64, mlp_dim=1376, gated=True,
        vocab_size=256, layers_per_stage=(8 // num_ranks,) * num_ranks,
    )
    plan = make_plan("seq1f1b", num_ranks=num_ranks, num_microbatches=8, num_chunks=4)
    assert chunk_lengths(config, cost, plan=plan, tile=tile) == lengths


@pytest.mark.parametrize(
    ("setting", "max_slowdown", "layers", "told"),
    [
        (None, 0.0, (3, 3, 3), "3+3+3 per stage"),
        ((2, 2, 5), 0.0, (2, 2, 5), "2+2+5 per stage"),
        ("balanced", 0.0, (4, 3, 2), "4+3+2 per stage (balanced)"),
        ("balanced", 1.0, (3, 3, 3), "3+3+3 per stage (balanced)"),
    ],
)
def test_layers_are_as_listed_even_or_fewer_beside_the_head(
    setting, max_slowdown, layers, told, tmp_path
):
    schedule = ScheduleConfig(num_chunks=2, num_microbatches=4, max_slowdown=max_slowdown)
    config = Config(
        mesh=MeshConfig(pipe=3, layers_per_stage=setting), schedule=schedule,
        data=DataConfig(seq_len=64),
    )  # fmt: skip
    stage = build_stage("llama", preset="tiny", num_layers=9, vocab_size=600)
    setup = make_setup(config, stage)
    assert setup.pipeline.layout.layers_per_stage == setup.cost.layers_per_stage == layers
    path = tmp_path / "text.txt"
    path.write_text("some words " * 200)
    data = make_data(load_corpus(str(path)), seq_len=64, eval_fraction=0.1, seed=0)
    header = describe(setup, data, num_params=1, predicted=predict(setup))
    assert f"\nlayers    {told}\n" in header
