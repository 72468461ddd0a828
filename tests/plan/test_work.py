"""The cost model: it adds up, it counts what `StageCost` counts, and it moves as it should."""

from dataclasses import replace

import numpy as np
import pytest

from seq1f1b_jax.config import (
    Config,
    DataConfig,
    ExecutorConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
    UserError,
)
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.plan.draft import draft_of
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import Share, find_hardware, hardware_of, names
from seq1f1b_jax.plan.work import work_of
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.training.setup import trained_weights

H100 = find_hardware("h100-80g")
FLAT = Share(1.0, 0.0)
IDEAL = replace(
    H100, matmul_share=FLAT, attention_forward=FLAT, attention_backward=FLAT, memory_share=1e9,
    link_share=1e9, launch=0.0, host_reads=0,
)
"""A device that spends time with FLOPs alone."""


def estimate(hardware=H100, *, mesh=None, schedule=None, executor=None, preset="2.7b", **data):
    config = Config(
        model=ModelConfig(family="gpt", preset=preset),
        mesh=MeshConfig(**{"pipe": 8} | (mesh or {})),
        schedule=ScheduleConfig(**{"num_microbatches": 8} | (schedule or {})),
        executor=ExecutorConfig(**(executor or {})),
        data=DataConfig(**{"seq_len": 32768} | data),
    )
    return Estimate(draft_of(fill_model(config), hardware), hardware)


@pytest.mark.parametrize("recompute", ["none", "selective", "matmuls", "full"])
@pytest.mark.parametrize("name", ["seq1f1b", "seq-zb-h1"])
def test_an_ideal_device_takes_the_flops_of_the_partition(name, recompute):
    found = estimate(IDEAL, schedule={"name": name}, executor={"recompute": recompute})
    draft = found.draft
    work, counted = work_of(draft, IDEAL), draft.cost.costs(draft.lengths)
    for op, flops in ((Op.F, counted.forward), (Op.B, counted.backward), (Op.W, counted.weights)):
        np.testing.assert_allclose(work.seconds(op) * IDEAL.matmul_flops, flops, rtol=1e-9)
    np.testing.assert_allclose(work.seconds(Op.I) + work.seconds(Op.W), work.seconds(Op.B))


@pytest.mark.parametrize(
    ("lora", "trainable"),
    [
        (LoraConfig(rank=16), None), (LoraConfig(), ("layers.mlp.*", "head")),
        (LoraConfig(), ("head",)),
    ],
    ids=["lora", "MLP and head", "head"],
)
def test_frozen_weights_take_no_flops_of_gradients(lora, trainable):
    found = estimate(IDEAL, schedule={"name": "seq-zb-h1"})
    whole = found.draft.cost
    config = replace(found.draft.config, lora=lora, train=TrainConfig(trainable=trainable))
    draft = draft_of(config, IDEAL)
    work, counted = work_of(draft, IDEAL), draft.cost.costs(draft.lengths)
    flops_of_all = float(np.max(counted.backward))
    for op, flops in ((Op.F, counted.forward), (Op.B, counted.backward), (Op.W, counted.weights)):
        np.testing.assert_allclose(
            work.seconds(op) * IDEAL.matmul_flops, flops, rtol=1e-9, atol=1e-9 * flops_of_all
        )
    adapters = 32 * 2 * 4 * 2560 * lora.rank
    mlp = 0 if lora.rank or len(trainable) == 1 else 32 * 2 * 2560 * 4 * 2560
    head = 50304 * 2560
    per_token = 4 * (32 * whole.layer_weights + adapters + head) + 2 * (
        adapters + mlp + (0 if lora.rank else head)
    )
    counted_params = replace(draft.cost, num_layer_params=None)
    assert counted_params.model_flops(num_tokens=1, num_pairs=0) == per_token
    setup_counts = trained_weights(config, build_stage("gpt", preset="2.7b", lora=lora))
    assert setup_counts == draft.cost.trained
    assert draft.state.moments < 0.7 * found.draft.state.moments


def test_an_ideal_device_is_busy_but_for_the_bubble():
    found = estimate(IDEAL)
    draft, time = found.draft, found.time
    costs = draft.cost.costs(draft.lengths)
    flops = 8 * float(np.sum(costs.forward) + np.sum(costs.backward))
    busy = flops / (time.total * draft.num_devices * IDEAL.matmul_flops)
    assert busy == pytest.approx(1 - time.waiting / time.total, rel=1e-4)
    # the backward of attention computes the scores again, which no convention counts
    assert 0.9 * busy < found.utilisation() < busy


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"schedule": {"name": "seq1f1b-i", "num_chunks": 4, "stages_per_rank": 2}},
        {"schedule": {"name": "seq-zb-h1"}},
        {"mesh": {"pipe": 2, "tensor": 4, "sequence_parallel": True}},
        {"mesh": {"pipe": 4, "data": 2}, "microbatch_size": 2},
        {"mesh": {"pipe": 1}},
        {"executor": {"offload": 1.0}},
    ],
    ids=["plain", "interleaved", "split", "tensor", "data", "one rank", "offload"],
)
def test_terms_add_up_to_the_step(case):
    found = estimate(**case)
    assert found.time.total == pytest.approx(found.seconds, rel=1e-9)
    assert min(found.time.terms().values()) > -1e-9 * found.seconds
    assert all(memory.total <= found.memory.total for memory in found.used)
    assert max(memory.ring for memory in found.used) == found.memory.ring


def test_what_should_make_a_step_longer_does():
    seconds = estimate().seconds
    assert estimate(replace(H100, network=1e8, link=1e8)).seconds > seconds
    assert estimate(replace(H100, memory_bandwidth=1e12)).seconds > seconds
    assert estimate(executor={"recompute": "full"}).seconds > seconds
    slow_host = replace(H100, host_link=1e9)
    assert estimate(slow_host, executor={"offload": 1.0}).time.work["offload"] > 0
    assert estimate(executor={"offload": 0.25}).time.work["offload"] == 0
    chunks = [estimate(schedule={"num_chunks": n}).time.work["matmul"] for n in (1, 4, 16)]
    assert chunks == sorted(chunks)  # small chunks are slower


def test_flop_conventions_are_told_apart():
    found = estimate()
    model, published, square = map(found.utilisation, ("model", "published", "square"))
    assert model < published < square
    lookup = 6 * 50304 * 2560 / (6 * found.draft.cost.layer_weights * 32)
    assert published / model - 1 < lookup
    with pytest.raises(ValueError, match="convention 'x' is unknown"):
        found.utilisation("x")


def test_every_device_has_a_source_for_every_number():
    for name in names():
        hardware = find_hardware(name)
        assert set(hardware.sources) == set(vars(hardware)) - {"sources"}
        assert all(hardware.sources.values())
        assert 0 < hardware.usable < hardware.memory


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40 GB"), ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80 GB"), ("NVIDIA H200", "H200 SXM 141 GB"),
        ("NVIDIA L40S", "L40S 48 GB"), ("Tesla T4", "T4 16 GB"), ("cpu", "one CPU core"),
    ],
)  # fmt: skip
def test_devices_are_known_by_the_name_that_jax_reports(kind, name):
    assert hardware_of(kind).name == name


def test_a_file_of_ones_own(tmp_path):
    from importlib.resources import files

    text = (files("seq1f1b_jax.plan.hardware") / "h100-80g.yaml").read_text(encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("989e12", "1e15"), encoding="utf-8")
    assert find_hardware(str(own)).matmul_flops == 1e15
    for old, new, message in (
        ("link:", "lnk:", "has an unknown|lacks"),
        ("989e12", "fast", "matmul_flops='fast'"),
        ("{value: 989e12", "{valu: 989e12", "matmul_flops must be"),
        ("name:", "name: [", "no YAML"),
    ):
        own.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            find_hardware(str(own))
    with pytest.raises(UserError, match="cannot be read"):
        find_hardware(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="use one of .*h100-80g"):
        find_hardware("h1000")
