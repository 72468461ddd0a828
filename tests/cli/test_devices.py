import pytest

from seq1f1b_jax.cli.devices import Machine, choose_platform, jax_environment
from seq1f1b_jax.config import MeshConfig, UserError

PLAIN = Machine(num_gpus=0, driver=0, has_plugin=False)
READY = Machine(num_gpus=8, driver=570, has_plugin=True)
UNREADY = Machine(num_gpus=8, driver=570, has_plugin=False)
NEWER = Machine(num_gpus=2, driver=580, has_plugin=False)


@pytest.mark.parametrize(
    ("asked", "machine", "environment", "platform"),
    [
        (None, PLAIN, {}, "cpu"),
        (None, READY, {}, "gpu"),
        ("cpu", READY, {}, "cpu"),
        ("cpu", UNREADY, {}, "cpu"),
        (None, UNREADY, {"CUDA_VISIBLE_DEVICES": ""}, "cpu"),
        (None, READY, {"JAX_PLATFORMS": "cpu"}, "cpu"),
        (None, READY, {"JAX_PLATFORMS": "cuda,cpu"}, "gpu"),
        (None, PLAIN, {"JAX_PLATFORMS": "tpu"}, "tpu"),
        ("gpu", READY, {"JAX_PLATFORMS": "cpu"}, "gpu"),
    ],
)
def test_platform(asked, machine, environment, platform):
    mesh = MeshConfig(platform=asked)
    assert choose_platform(mesh, machine=machine, environment=environment) == platform


@pytest.mark.parametrize(
    ("asked", "machine", "given", "cure"),
    [
        (None, UNREADY, "8 NVIDIA GPUs", "ACCELERATOR=cuda12"),
        ("gpu", NEWER, "2 NVIDIA GPUs", "ACCELERATOR=cuda13"),
        ("gpu", PLAIN, "no NVIDIA GPU", "--mesh.platform cpu"),
    ],
)
def test_a_gpu_that_jax_cannot_use_is_refused_with_the_command_that_mends_it(
    asked, machine, given, cure
):
    with pytest.raises(UserError) as caught:
        choose_platform(MeshConfig(platform=asked), machine=machine, environment={})
    assert given in str(caught.value)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    ("mesh", "flags", "expected"),
    [
        (MeshConfig(), "", "--xla_force_host_platform_device_count=4"),
        (MeshConfig(pipe=3), "", "--xla_force_host_platform_device_count=3"),
        (MeshConfig(), "--a=1", "--a=1 --xla_force_host_platform_device_count=4"),
        (
            MeshConfig(),
            "--xla_force_host_platform_device_count=2",
            "--xla_force_host_platform_device_count=2",
        ),
        (
            MeshConfig(virtual_devices=6),
            "--xla_force_host_platform_device_count=2 --a=1",
            "--a=1 --xla_force_host_platform_device_count=6",
        ),
    ],
)
def test_virtual_devices_are_added_to_the_flags_that_are_there(mesh, flags, expected):
    new = jax_environment(mesh, "cpu", environment={"XLA_FLAGS": flags})
    assert new["XLA_FLAGS"] == expected
    assert new["JAX_PLATFORMS"] == "cpu"


def test_accelerators_get_no_virtual_devices():
    assert "XLA_FLAGS" not in jax_environment(MeshConfig(), "gpu", environment={})
    assert jax_environment(MeshConfig(), "gpu", environment={})["JAX_PLATFORMS"] == "cuda,cpu"
    assert "JAX_PLATFORMS" not in jax_environment(MeshConfig(), "tpu", environment={})
