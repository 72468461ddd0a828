"""The orders of torch.distributed.pipelining, run by the executor: a line each.

    pip install -e '.[torch]'
    python -m benchmarks.torch_plans                 executes six of the 46; about 2 minutes
    python -m benchmarks.torch_plans --execute all   compiles them all; about 20 minutes
    python -m benchmarks.torch_plans --execute none  seconds

Every order is read from the CSV that torch writes, validated, lowered and replayed by the NumPy
machine, which sees any wrong value that an action would read. `ours` says whether the schedule of
the same name here is equal cell for cell, `step` is the executor's time at F=1, B=2 under the
exchange that the plan is given, and `error` the largest difference of a gradient leaf from plain
jax.grad in float64, over the leaf's largest entry. 1F1B is written as torch runs it: as torch 2.13
lays it out, the last rank's forwards count from 1, which its own check refuses.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.torch_orders import V_SHAPED, Order, all_orders, write_order
from seq1f1b_jax.schedule import Plan, PlanError, lower, make_plan, replay, simulate
from seq1f1b_jax.schedule.files.plan_file import read_plan
from seq1f1b_jax.schedule.simulation.fastest import COSTS

OURS = {"GPipe": "gpipe", "1F1B": "1f1b", "Interleaved1F1B": "1f1b-i"}
EXECUTED = (
    Order("GPipe", 3, 5, 1),
    Order("1F1B", 4, 8, 1),
    Order("Interleaved1F1B", 3, 6, 2),
    Order("InterleavedZeroBubble", 4, 8, 1),
    Order("InterleavedZeroBubble", 4, 4, 2),
    Order("LoopedBFS", 2, 4, 3),
)
MAX_ERROR = 1e-10
SEQ_LEN = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the orders, print the table and the line of JSON; 1 if a gradient is off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torch_plans", description=__doc__)
    parser.add_argument("--execute", choices=("some", "all", "none"), default="some")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    try:
        import torch.distributed.pipelining  # noqa: F401  what lays the orders out
    except ImportError:
        print("error: needs torch; install the extra: pip install -e '.[torch]'", file=sys.stderr)
        return 2
    import jax

    from benchmarks import report

    chosen = {"some": EXECUTED, "all": tuple(all_orders()), "none": ()}[options.execute]
    if chosen:
        jax.config.update("jax_num_cpu_devices", 8)
        jax.config.update("jax_enable_x64", True)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*measure(Path(folder), chosen)]
    report.show("orders of torch", rows)
    values = summary(rows)
    report.finish(values, path=options.out)
    return int(values["num_exact"] < values["num_executed"])


def measure(folder: Path, executed: Sequence[Order]) -> Iterator[dict[str, Any]]:
    """A row per order, those that are refused last.

    Args:
      folder: for the files.
      executed: orders to run on devices as well.
    """
    for order in all_orders():
        plan = read_plan(write_order(order, folder))
        replay(lower(plan, (SEQ_LEN,)))
        row = {
            "schedule": order.name,
            "P M V": f"{order.P} {order.M} {order.V}",
            "read": "yes",
            "replayed": "yes",
            "ours": ours(order, plan),
            "exchange": str(plan.exchange),
            "step": simulate(plan, COSTS, machine="executor").makespan,
        }
        if order in executed:
            error = gradient_error(plan)
            print(f"{order.text}: {error:.0e}", file=sys.stderr, flush=True)
            exact = "yes" if error <= MAX_ERROR else "NO"
            row |= {"executed exactly": exact, "error": f"{error:.0e}"}
        yield row
    for order in V_SHAPED:
        try:
            read_plan(write_order(order, folder))
        except PlanError:
            sizes = f"{order.P} {order.M} {order.V}"
            yield {"schedule": order.name, "P M V": sizes, "read": "refused: placed in a V"}


def ours(order: Order, plan: Plan) -> str:
    """Whether the schedule of the same name here has the same cells; empty where there is none."""
    if order.name not in OURS:
        return ""
    options = {"stages_per_rank": order.V} if order.V > 1 else {}
    sizes = {"num_ranks": order.P, "num_microbatches": order.M, "num_chunks": 1}
    same = make_plan(OURS[order.name], **sizes, **options).ranks == plan.ranks
    return "equal" if same else "differs"


def gradient_error(plan: Plan) -> float:
    """Largest relative difference of a gradient leaf from plain `jax.grad`, in float64.

    What idle ranks hold is NaN, so that nothing of it may be read.
    """
    import jax
    import numpy as np

    from seq1f1b_jax.inference import reference_loss
    from seq1f1b_jax.models import build_stage
    from seq1f1b_jax.pipeline import build_step, make_mesh

    layers = plan.num_stages
    stage = build_stage(
        "llama", num_layers=layers, model_dim=8, num_heads=2, mlp_dim=16, vocab_size=11
    )
    step = build_step(
        stage, plan, make_mesh(plan.num_ranks), chunk_lengths=(SEQ_LEN,), compute_dtype="float64",
        fill=float("nan"),
    )  # fmt: skip
    params = jax.tree.map(lambda leaf: leaf.astype("float64"), stage.init(jax.random.key(0)))
    random = np.random.default_rng(0)
    tokens = random.integers(11, size=(plan.num_microbatches, 1, SEQ_LEN)).astype(np.int32)
    _, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), tokens, tokens)

    def plain(params):
        return reference_loss(stage, params, tokens, tokens, compute_dtype="float64")

    expected = jax.grad(plain)(params)
    errors = jax.tree.map(
        lambda a, b: float(np.max(np.abs(np.asarray(a) - b)) / np.max(np.abs(b))),
        step.to_canonical(grads),
        expected,
    )
    jax.clear_caches()  # the programs of an order are of no use to the next
    return max(jax.tree.leaves(errors))


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the line of JSON."""
    executed = [row for row in rows if "error" in row]
    return {
        "num_read_and_replayed": sum(row.get("replayed") == "yes" for row in rows),
        "num_refused": sum(row["read"].startswith("refused") for row in rows),
        "num_equal_to_ours": sum(row.get("ours") == "equal" for row in rows),
        "num_different_from_ours": sum(row.get("ours") == "differs" for row in rows),
        "num_executed": len(executed),
        "num_exact": sum(row["executed exactly"] == "yes" for row in executed),
        "max_error": max((float(row["error"]) for row in executed), default=None),
    }


if __name__ == "__main__":
    sys.exit(main())
