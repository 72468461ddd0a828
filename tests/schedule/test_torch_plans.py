"""torch's schedules: read as torch writes them, and written so that torch takes them."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from benchmarks.common.torch_orders import (
    V_SHAPED,
    Order,
    all_orders,
    check_with_torch,
    write_order,
)
from seq1f1b_jax.schedule import (
    SCHEDULES,
    Costs,
    Exchange,
    Op,
    PlanError,
    forward_plan,
    lower,
    make_plan,
    replay,
    simulate,
)
from seq1f1b_jax.schedule.files.plan_file import load_plan, read_plan, write_plan
from seq1f1b_jax.schedule.files.torch_cells import parse_torch_cell

FOLDER = Path(__file__).parent / "torch_plans"
FILES = {  # as torch 2.13 wrote them, the last rank of 1F1B as it runs -> P, M, V
    "GPipe_P4_M7_V1.compute": (4, 7, 1),
    "1F1B_P4_M8_V1": (4, 8, 1),
    "Interleaved1F1B_P2_M4_V2.compute": (2, 4, 2),
    "Interleaved1F1B_P2_M4_V2.comms": (2, 4, 2),
    "InterleavedZeroBubble_P2_M4_V2.compute": (2, 4, 2),
    "InterleavedZeroBubble_P4_M4_V1": (4, 4, 1),
    "LoopedBFS_P2_M3_V2": (2, 3, 2),
}
OURS = {"GPipe": "gpipe", "1F1B": "1f1b", "Interleaved1F1B": "1f1b-i"}
"""Of the same name: equal cell for cell."""


def ours(name, P, M, V):
    options = {"stages_per_rank": V} if V > 1 else {}
    return make_plan(OURS[name], num_ranks=P, num_microbatches=M, num_chunks=1, **options)


def read(folder, text, name="mine.csv", **options):
    (folder / name).write_text(text)
    return read_plan(folder / name, **options)


@pytest.mark.parametrize("name", FILES)
def test_what_torch_wrote_runs(name):
    plan = read_plan(FOLDER / f"{name}.csv")
    assert (plan.num_ranks, plan.num_microbatches, plan.stages_per_rank) == FILES[name]
    assert (plan.num_chunks, plan.name) == (1, name)
    replay(lower(plan, (5,)))
    kind = name.split("_")[0]
    if kind in OURS:
        assert plan.ranks == ours(kind, *FILES[name]).ranks


def test_messages_and_sharding_change_nothing():
    files = (f"Interleaved1F1B_P2_M4_V2.{kind}.csv" for kind in ("compute", "comms"))
    compute, comms = (read_plan(FOLDER / file) for file in files)
    assert replace(comms, name=compute.name) == compute


def test_both_halves_of_an_overlap_run_one_after_the_other(tmp_path):
    plan = read(tmp_path, "0F0,(0F1;0B0)OVERLAP_F_B,0I1,0W1\n")
    assert plan.text().split("\n")[1] == "F0.0 F1.0 B0.0 I1.0 W1.0"
    apart = read(tmp_path, "(0F0;0B0)OVERLAP_F_B,( 0F1 ; 0B1 )OVERLAP_F_B\n")  # ; is no delimiter
    assert apart.text().split("\n")[1] == "F0.0 B0.0 F1.0 B1.0"


@pytest.mark.parametrize("name", ["mine.csv", "mine.txt", "mine"])
def test_cells_say_what_a_file_is_not_its_ending(tmp_path, name):
    plan = read(tmp_path, "0F0,,0B0\n\n,1F0,1B0\n", name)
    assert (plan.num_ranks, plan.num_units) == (2, 1)


@pytest.mark.parametrize("file", ["ZBVZeroBubble_P2_M4_V2.csv", "DualPipeV_P2_M6_V2.compute.csv"])
def test_another_placement_reports_the_rule(file):
    rule = "stage 3 of 4 in a V, as zb-v and dualpipev; stage s is on rank s mod P, so rank 0"
    for num_chunks in (1, 2):
        with pytest.raises(PlanError, match=rule) as caught:
            read_plan(FOLDER / file, num_chunks=num_chunks)
        assert "torch's microbatch" not in str(caught.value)  # chunks are not what is wrong


def test_stages_in_blocks_report_the_rule_and_their_own_number(tmp_path):
    rows = "F0.0,F0.0@1,F0.0@2,B0.0@2,B0.0@1,B0.0\nF0.0@3,F0.0@4,B0.0@4,B0.0@3\n"
    with pytest.raises(PlanError, match=r"stage 1 of 5 in blocks; .* rank 0 of 2 runs 0, 2 and 4"):
        read(tmp_path, rows)
    rows = "F0.0,F0.0@2,F0.0@4,B0.0@4,B0.0@2,B0.0\nF0.0,F0.0@3,B0.0@3,B0.0\n"
    with pytest.raises(PlanError, match=r"no rank runs stage 5; 2 ranks .* have 6, .* shows 5"):
        read(tmp_path, rows)


def test_the_last_rank_of_1f1b_as_torch_lays_it_out_is_refused():
    """Its forwards count from 1 there (torch 2.13), which torch's own check refuses as well."""
    with pytest.raises(PlanError, match=r"end of line 1: .* F2\.0 is missing"):
        read_plan(FOLDER / "1F1B_P2_M2_V1.as_laid_out.csv")


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("0F0,F1.0,0B0\n", "line 1, column 2: 'F1.0' is in a file of torch's cells"),
        ("0F0,0F1x,0B0\n", "line 1, column 2: '0F1x' is no cell of torch's"),
        ("0F0,0GATHER,0B0\n", "column 2: '0GATHER' is no cell of torch's"),
        ("0F0,(0B0)OVERLAP,0B0\n", r"column 2: '(0B0)OVERLAP' is no cell"),
        ("0F0,(0B0;0X1)OVERLAP_F_B,0B0\n", "'(0B0;0X1)OVERLAP_F_B' is no cell"),
        ("# a ranks=1\n0F0,0B0\n", "line 1: a line of sizes comes before cells of torch's"),
        ("0SEND_F0\n1RECV_F0\n", "mine.csv holds messages only"),
        ("0F0,999999999F0,0B0\n", "1000000000 stages and holds 3"),
    ],
    ids=["ours", "trailing letter", "unknown", "group", "in a group", "sizes", "messages", "stage"],
)
def test_what_is_not_understood_is_refused_at_its_place(tmp_path, text, reported):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    assert reported in str(caught.value) and "\n" not in str(caught.value)


# Chunks.


def test_microbatches_are_read_as_chunks_where_the_user_says_so(tmp_path):
    assert parse_torch_cell("3W7", num_chunks=3)[0].text(3) == "W2.1"
    plan = read(tmp_path, "0F0,0F1,0B1,0B0,0F2,0F3,0B3,0B2\n", num_chunks=2)
    assert replace(plan, name="seq1f1b") == make_plan(
        "seq1f1b", num_ranks=1, num_microbatches=2, num_chunks=2
    )
    whole = read(tmp_path, "0F0,0F1,0B1,0F2,0B0,0F3,0B3,0B2\n")
    assert (whole.num_microbatches, whole.num_chunks) == (4, 1)


def test_orders_that_chunks_do_not_allow_say_how_they_were_read(tmp_path):
    hint = r"column 3 \(torch's microbatch u is read as chunk u mod 2 .* needs num_chunks=1\)"
    with pytest.raises(PlanError, match=f"{hint}: .* B0.0 comes before B0.1"):
        read(tmp_path, "0F0,0F1,0B0,0B1\n", num_chunks=2)
    with pytest.raises(ValueError, match="3 microbatches of torch's, .* num_chunks=2"):
        read(tmp_path, "0F0,0F1,0F2,0B2,0B1,0B0\n", num_chunks=2)


# Written.


SIZES = [(1, 1, 1), (2, 3, 1), (3, 2, 2), (4, 4, 3)]
CASES = [
    (name, sizes)
    for name, sizes in product(SCHEDULES, SIZES)
    if sizes[2] == 1 or SCHEDULES[name].chunked_name is None
]


def plan_of(name, sizes):
    P, M, C = sizes
    return make_plan(name, num_ranks=P, num_microbatches=M, num_chunks=C)


@pytest.mark.parametrize(("name", "sizes"), CASES, ids=str)
def test_what_is_written_for_torch_comes_back(tmp_path, name, sizes):
    plan = plan_of(name, sizes)
    write_plan(plan, tmp_path / "a.csv", form="torch")
    assert "rank" not in (tmp_path / "a.csv").read_text()
    back = read_plan(tmp_path / "a.csv", num_chunks=plan.num_chunks)
    assert replace(back, name=name, exchange=plan.exchange) == plan


def test_an_evaluation_plan_is_not_written_for_torch(tmp_path):
    plan = forward_plan(num_ranks=2, num_microbatches=2, num_chunks=1)
    with pytest.raises(ValueError, match="plan forward has no backward, and torch refuses"):
        write_plan(plan, tmp_path / "a.csv", form="torch")
    assert not (tmp_path / "a.csv").exists()


# The exchange that a file does not name.


def test_the_faster_exchange_is_taken_and_reported(tmp_path):
    longer = make_plan("1f1b-lockstep", num_ranks=4, num_microbatches=8, num_chunks=1)
    for plan, expected in (
        (longer, "exchange=lockstep, faster for this order: a step of 33, with parity 39"),
        (
            make_plan("1f1b", num_ranks=4, num_microbatches=8, num_chunks=1),
            "exchange=parity, faster for this order: a step of 33, with lockstep 38",
        ),
    ):
        text = plan.text().replace(f" exchange={plan.exchange}", "")
        (tmp_path / "a.txt").write_text(text)
        assert load_plan(tmp_path / "a.txt") == (plan, f"{expected} (F=1 B=2)")
        write_plan(plan, tmp_path / "a.txt")
        assert load_plan(tmp_path / "a.txt") == (plan, "")


def test_sizes_with_several_stages_per_rank_and_no_exchange_mean_what_the_rows_alone_mean(tmp_path):
    plan = make_plan("1f1b-i", num_ranks=4, num_microbatches=4, num_chunks=1)
    (tmp_path / "a").write_text(plan.text().replace(" exchange=lockstep", ""))
    (tmp_path / "b").write_text(plan.text().split("\n", 1)[1])
    assert read_plan(tmp_path / "a") == plan == replace(read_plan(tmp_path / "b"), name="1f1b-i")


def test_an_odd_ring_has_no_parity(tmp_path):
    plan = make_plan("1f1b-i", num_ranks=3, num_microbatches=3, num_chunks=1)
    (tmp_path / "a").write_text(plan.text().replace("=lockstep", "=parity"))
    with pytest.raises(ValueError, match=r"a, line 1: exchange 'parity' on a ring of num_ranks=3"):
        read_plan(tmp_path / "a")


# With torch itself.

ALL = [*all_orders()]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs the extra torch: pip install -e '.[torch]'")


@pytest.mark.parametrize("order", ALL, ids=lambda order: order.text)
def test_every_order_of_torch_runs(torch, tmp_path, order):
    plan = read_plan(write_order(order, tmp_path))
    assert (plan.num_ranks, plan.num_microbatches, plan.stages_per_rank) == order[1:]
    replay(lower(plan, (5,)))
    if order.name in OURS:
        assert plan.ranks == ours(*order).ranks


@pytest.mark.parametrize("order", V_SHAPED, ids=lambda order: order.text)
def test_every_v_of_torch_reports_the_rule(torch, tmp_path, order):
    with pytest.raises(PlanError, match="in a V, as zb-v .* s is on rank s mod P"):
        read_plan(write_order(order, tmp_path))


@pytest.mark.parametrize(("name", "sizes"), CASES, ids=str)
def test_torch_takes_what_is_written_for_it(torch, tmp_path, name, sizes):
    plan = plan_of(name, sizes)
    write_plan(plan, tmp_path / "a.csv", form="torch")
    order = Order(name, plan.num_ranks, plan.num_units, plan.stages_per_rank)
    check_with_torch(tmp_path / "a.csv", order)


def test_torch_refuses_its_own_layout_of_1f1b(torch, tmp_path):
    order = Order("1F1B", 2, 2, 1)
    with pytest.raises(AssertionError, match="microbatch 0 without first running Forward"):
        check_with_torch(write_order(order, tmp_path, repaired=False), order)


def test_interleaved_zero_bubble_is_faster_by_parity_than_behind_barriers(torch, tmp_path):
    plan, _ = load_plan(write_order(Order("InterleavedZeroBubble", 4, 8, 2), tmp_path))
    assert {Op.I, Op.W} <= {a.op for a in plan.ranks[0]}
    costs = Costs(forward=1, backward=2)
    parity = simulate(replace(plan, exchange=Exchange.PARITY), costs, machine="executor").makespan
    lockstep = replace(plan, exchange=Exchange.LOCKSTEP)
    blocking = simulate(lockstep, costs, machine="lock-step").makespan
    assert (parity, blocking) == (64, 76)
    assert simulate(lockstep, costs, machine="executor").makespan == 62
