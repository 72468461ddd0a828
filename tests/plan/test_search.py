"""The search misses nothing: on small spaces it finds what looking at every configuration finds."""

import heapq
from dataclasses import replace

import pytest

from seq1f1b_jax.config import Config, DataConfig, MeshConfig, ModelConfig, ScheduleConfig
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import find_hardware
from seq1f1b_jax.plan.search.bounds import least_bytes, least_seconds
from seq1f1b_jax.plan.search.find import candidates, evaluate, search
from seq1f1b_jax.plan.search.space import Space

DEVICES = 8
SMALL = Space(
    chunks=(1, 2, 4), schedules=(("seq1f1b", 1), ("seq1f1b-i", 2), ("seq-zb-h1", 1)),
    recompute=("none", "full"), offload=(0.0, 0.5), partitions=("balanced", "even"),
    sequences=(1,), layers=(None,),
)
H100 = find_hardware("h100-80g")


def config_of(preset="1.3b", seq_len=16384):
    return fill_model(
        Config(
            model=ModelConfig(family="gpt", preset=preset, positions="rotary"),
            mesh=MeshConfig(pipe=1), schedule=ScheduleConfig(num_microbatches=8),
            data=DataConfig(seq_len=seq_len),
        )
    )


HARDWARE = {
    "roomy": H100,
    "tight": replace(H100, memory=30e9),
    "no host memory": replace(H100, memory=24e9, host_memory=1e9),
    "slow links": replace(H100, memory=40e9, link=2e9, network=1e9, host_link=1e9),
}


EVERYDAY = ("tight",)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.slow)
        for name in HARDWARE
    ],
)
def looked_at(request):
    """A device, and every configuration of the space on it."""
    hardware = HARDWARE[request.param]
    return hardware, list(candidates(config_of(), hardware, DEVICES, SMALL))


def test_bounds_are_bounds(looked_at):
    _, everything = looked_at
    assert len(everything) > 150
    tight = 0
    for _, estimate in everything:
        held, host = least_bytes(estimate.draft)
        seconds = least_seconds(estimate.draft, estimate.work) + estimate.once
        assert held <= estimate.held and host <= estimate.memory.host
        assert seconds <= estimate.seconds * (1 + 1e-9)
        tight += seconds > 0.9 * estimate.seconds
    assert tight > len(everything) / 2  # a bound of nothing would be one too


def test_it_finds_what_looking_at_all_finds(looked_at):
    hardware, everything = looked_at
    best = {}
    for core, estimate in everything:
        found = evaluate(estimate)
        if found and (core not in best or found.rank < best[core].rank):
            best[core] = found
    wanted = heapq.nsmallest(4, (found.rank for found in best.values()))
    result = search(config_of(), hardware, num_devices=DEVICES, space=SMALL, top=4)
    assert [found.rank for found in result.best] == wanted
    assert result.num_configurations == len(everything)
    assert result.num_simulated < len(everything) / 2


def test_it_finds_the_same_again():
    def found():
        result = search(config_of(), HARDWARE["tight"], num_devices=DEVICES, space=SMALL, top=3)
        return [f.estimate.draft.config for f in result.best]

    assert found() == found()


def test_every_found_configuration_is_whole():
    result = search(config_of(), H100, num_devices=DEVICES, space=SMALL, top=5)
    assert len(result.best) == 5
    for found in result.best:
        config = found.estimate.draft.config
        mesh, schedule = config.mesh, config.schedule
        assert mesh.data * mesh.pipe * mesh.tensor == DEVICES
        assert schedule.num_microbatches * config.data.microbatch_size == 8
        assert found.held <= H100.usable


def test_nothing_fits():
    small = replace(H100, memory=1e9)
    result = search(config_of(), small, num_devices=DEVICES, space=SMALL)
    assert not result.best and result.smallest > 1e9
    assert result.num_too_large == result.num_configurations


def test_chunks_fit_where_whole_sequences_do_not():
    config = config_of("7b", 131072)
    kept = Space(recompute=("none",), offload=(0.0,), partitions=("balanced",), sequences=(1,))
    a100 = find_hardware("a100-80g")

    def found(space):
        return search(config, a100, num_devices=32, space=space, top=1).best

    assert not found(replace(kept, chunks=(1,)))
    assert found(replace(kept, chunks=(4,)))
