"""Every peer has the loss and the gradients of the reference, at tiny sizes."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from benchmarks.common import cases
from benchmarks.common.processes import run_processes
from benchmarks.peers import __main__ as peers
from benchmarks.peers import convert, jax_programs, ratios
from benchmarks.peers.measure import Turns, measure
from benchmarks.peers.work import Work
from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.pipeline import make_mesh

WORK = Work(2, 2, 2, seq_len=24, model_dim=128, num_layers=4, vocab_size=32)


@pytest.fixture(scope="module")
def reference():
    stage, params = WORK.stage(), WORK.params()
    loss = jax.jit(jax.value_and_grad(lambda p, *batch: reference_loss(stage, p, *batch)))
    return loss(params, *WORK.batch())


@pytest.mark.parametrize(
    "remat", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["keep", "remat"]
)
@pytest.mark.parametrize("name", jax_programs.PEERS)
def test_jax_peer_is_exact(name, remat, reference):
    batch = tuple(map(np.asarray, WORK.batch()))
    attention = cases.differentiable("xla_dense")
    program, arguments = jax_programs.peer(
        name, WORK, make_mesh(2), WORK.params(), batch, remat=remat, attention=attention
    )
    loss, grads = program(*arguments)
    np.testing.assert_allclose(float(loss), float(reference[0]), rtol=1e-6)
    errors = cases.leaf_errors(grads, reference[1])
    assert len(errors) == len(jax.tree.leaves(reference[1]))
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.slow
def test_torch_is_exact(reference, tmp_path):
    pytest.importorskip("torch", reason="needs the extra peers: pip install -e '.[peers]'")
    weights, turn = tmp_path / "weights.npz", tmp_path / "turn"
    convert.write(weights, WORK.params(), WORK.batch())
    turn.write_text("0")
    arguments = {
        "weights": str(weights), "sizes": convert.sizes_of(WORK.stage()), "rounds": 0,
        "turns": dataclasses.asdict(Turns(str(turn), 0, 1)), "with_grads": True,
    }
    ranks = run_processes(
        "benchmarks.peers.torch_pipeline:worker", arguments, num_processes=2, framework="torch"
    )
    wanted = convert.to_torch(reference[1])
    for name in ranks[0]:
        losses = [rank[name]["loss"] for rank in ranks]
        np.testing.assert_allclose(losses[-1], float(reference[0]), rtol=1e-6, err_msg=name)
        found = ranks[0][name]["grads"] | ranks[1][name]["grads"]
        assert found.keys() == wanted.keys(), name
        for key, grad in found.items():
            error = np.max(np.abs(np.array(grad) - wanted[key])) / np.max(np.abs(wanted[key]))
            assert error < 1e-5, (name, key, error)


def test_groups_work_in_turn(tmp_path):
    turn = tmp_path / "turn"
    turn.write_text("0")
    order = []

    def run(group, name):
        programs = {name: lambda: order.append(name)}
        turns = Turns(str(turn), group, 2, patience=30)
        return measure(programs, begin=lambda: 0.0, turns=turns, rounds=2, is_first=True)

    with ThreadPoolExecutor(2) as pool:
        rows = [f.result() for f in [pool.submit(run, g, name) for g, name in enumerate("ab")]]
    assert "".join(order) == "aabbabab"  # the first round compiles, then measures the memory
    assert len(rows[1]["b"]["spans"]) == 2


def test_another_loss_ends_the_run(capsys):
    with pytest.raises(SystemExit, match="'torch 1F1B': 2.001"):
        peers._checked("P=2", WORK, {"alone": {"loss": 2.0}, "torch 1F1B": {"loss": 2.001}})


def test_ratios_are_the_worst_over_lengths():
    def rows(**memory):
        names = [*jax_programs.PEERS, *(n + ", remat" for n in jax_programs.PEERS)]
        names += [*jax_programs.OURS, "torch 1F1B", "torch alone"]
        row = {"cpu_seconds": 1.0, "step_seconds": 1.0, "memory_mb": 1.0, "efficiency": 0.5}
        return {name: row | {"memory_mb": memory.get(name, 1.0)} for name in names}

    short = {"virtual": rows(GPipe=4.0, **{"seq1f1b": 2.0, "seq1f1b, full": 0.25})}
    long = {"virtual": rows(seq1f1b=0.5), "processes": rows(seq1f1b=0.75)}
    values = ratios.summary({512: short | {"processes": rows()}, 2048: long})
    assert values["memory_over_best_jax_pipeline"] == 2.0  # over `vmap and shift`
    assert values["memory_over_torch"] == 1.0
    assert values["efficiency_over_best_torch"] == 1.0
    assert json.dumps(values)
