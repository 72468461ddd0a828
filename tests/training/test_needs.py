"""What a run needs against what is there: layers for the host, and refusals before compiling."""

from dataclasses import replace

import pytest

from seq1f1b_jax.config import (
    Config,
    DataConfig,
    ExecutorConfig,
    MeshConfig,
    ScheduleConfig,
    UserError,
)
from seq1f1b_jax.distributed import ALONE
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.memory import predict_memory
from seq1f1b_jax.training.faults import needs
from seq1f1b_jax.training.faults.needs import check_step_fits, needs_of, program_of, with_offload
from seq1f1b_jax.training.preview.offload import describe_offload
from seq1f1b_jax.training.setup import make_setup
from tests.run.tiny import command_line, run

STAGE = build_stage("llama", preset="tiny", num_layers=8, max_positions=256)


def setup_of(**executor):
    config = Config(
        mesh=MeshConfig(pipe=2), data=DataConfig(seq_len=256),
        schedule=ScheduleConfig(num_chunks=2, num_microbatches=4),
        executor=ExecutorConfig(**executor),
    )
    return make_setup(config, STAGE)


def bytes_with(setup, num_host_layers):
    pipeline = replace(setup.pipeline, num_host_layers=num_host_layers)
    setup = replace(setup, pipeline=pipeline)
    return needs_of(setup, predict_memory(program_of(setup))).total


@pytest.fixture
def device(monkeypatch):
    """Devices with memory of their own, so many bytes of it."""

    def has(present, host=10**12):
        monkeypatch.setattr(needs, "_is_one_memory", lambda setup: False)
        monkeypatch.setattr(needs, "_present", lambda setup: (present, 1))
        monkeypatch.setattr(needs, "memory_of_machine", lambda: host)

    return has


def test_auto_keeps_as_many_layers_on_the_device_as_fit(device):
    setup = setup_of(offload="auto")
    device(10**12)
    sizes = [bytes_with(setup, count) for count in range(5)]
    assert sizes[0] > sizes[2] > sizes[3] > sizes[4]
    chosen = {}
    for count in (0, 2, 3, 4):
        device(sizes[count])
        chosen[count] = with_offload(setup, ALONE).pipeline.num_host_layers
    assert chosen == {0: 0, 2: 2, 3: 3, 4: 4}
    device(sizes[4] - 1)
    setup = with_offload(setup, ALONE)
    assert setup.pipeline.num_host_layers == 4
    with pytest.raises(UserError, match="step is predicted to need .* more chunks") as caught:
        check_step_fits(setup)
    assert "--executor.offload" not in str(caught.value)  # all layers are there already
    with pytest.raises(UserError, match=r"host memory \(--executor.offload auto\)"):
        check_step_fits(setup_of())


def test_auto_moves_nothing_where_host_and_device_are_one_memory():
    assert with_offload(setup_of(offload="auto"), ALONE).pipeline.num_host_layers == 0


def test_host_memory_counts_every_device_of_the_host(device):
    setup = with_offload(setup_of(offload=0.5), ALONE)
    host = predict_memory(program_of(setup)).host
    device(10**12, host=len(setup.mesh.local_devices) * host)
    check_step_fits(setup)
    device(10**12, host=len(setup.mesh.local_devices) * host - 1)
    with pytest.raises(UserError, match=r"executor.offload=0.5 needs .* a smaller --executor"):
        check_step_fits(setup)
    check_step_fits(replace(setup, config=replace(
        setup.config, executor=ExecutorConfig(offload=0.5, check_memory=False)
    )))  # fmt: skip


def test_the_line_names_layers_and_bytes():
    setup = with_offload(setup_of(offload=0.5), ALONE)
    line = describe_offload(setup, program_of(setup))
    assert line.startswith("2 of 4 layers of a stage wait in host memory, ")
    assert "ms" not in line  # nothing is assumed of a CPU


def test_a_run_that_does_not_fit_ends_before_it_compiles(monkeypatch, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("all of it " * 2000)
    monkeypatch.setattr(needs, "memory_of_machine", lambda: 400_000)
    outcome = run(*command_line(tmp_path / "run", text))
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    for words in ("step is predicted to need ", "there are 0.4 MB", "--executor.check_memory"):
        assert words in line
    assert "compiling" not in outcome.out and "memory    " in outcome.out
