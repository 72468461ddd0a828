"""Which devices a run uses, decided before JAX is imported; the caller sets the environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from seq1f1b_jax.config import MeshConfig, UserError
from seq1f1b_jax.config.checks import num_virtual_devices

CUDA13_DRIVER = 580
COUNT_FLAG = "--xla_force_host_platform_device_count"


@dataclass(frozen=True)
class Machine:
    """What the machine offers.

    Attributes:
      num_gpus: NVIDIA GPUs that the driver lists.
      driver: major version of the NVIDIA driver, 0 without one.
      has_plugin: whether JAX's CUDA plugin is installed.
    """

    num_gpus: int
    driver: int
    has_plugin: bool


def probe_machine() -> Machine:
    """Ask the NVIDIA driver and the installed packages; imports no JAX."""
    has_plugin = any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if shutil.which("nvidia-smi") is None:
        return Machine(num_gpus=0, driver=0, has_plugin=has_plugin)
    gpus = re.findall(r"^GPU \d+:", _nvidia_smi("-L"), re.MULTILINE)
    driver = re.match(r"\d+", _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader"))
    return Machine(len(gpus), int(driver[0]) if driver else 0, has_plugin)


def choose_platform(mesh: MeshConfig, *, machine: Machine, environment: Mapping[str, str]) -> str:
    """`cpu`, `gpu`, or another platform that `JAX_PLATFORMS` names.

    Args:
      mesh: `mesh.platform` decides where it is set.
      machine: what there is to choose from.
      environment: `JAX_PLATFORMS` comes second, GPUs that are not hidden third.

    Raises:
      UserError: a GPU is requested or present, and JAX cannot use it.
    """
    asked = environment.get("JAX_PLATFORMS", "").split(",")[0]
    if mesh.platform is None and asked:
        return {"cuda": "gpu"}.get(asked, asked)
    visible = machine.num_gpus
    if environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        visible = 0
    if mesh.platform == "cpu" or (mesh.platform is None and not visible):
        return "cpu"
    if not visible:
        raise UserError(
            "mesh.platform=gpu: the driver lists no NVIDIA GPU (nvidia-smi -L); "
            "use --mesh.platform cpu"
        )
    if not machine.has_plugin:
        raise UserError(f"{visible} NVIDIA GPUs, but JAX cannot use them: {mend_command(machine)}")
    return "gpu"


def mend_command(machine: Machine) -> str:
    """The command after which JAX can use the machine's GPUs."""
    cuda = "cuda13" if machine.driver >= CUDA13_DRIVER else "cuda12"
    return (
        f"run make train ACCELERATOR={cuda} (without make: pip install '.[{cuda}]'), "
        "or train on the CPU with --mesh.platform cpu"
    )


def jax_environment(
    mesh: MeshConfig, platform: str, *, environment: Mapping[str, str], num_processes: int = 1
) -> dict[str, str]:
    """Variables to set before JAX is imported.

    Args:
      mesh: how many virtual CPU devices are wanted.
      platform: from `choose_platform`.
      environment: present variables; other XLA flags are kept.
      num_processes: processes that share the virtual devices.

    Raises:
      UserError: they cannot be shared.

    Example:
      >>> from seq1f1b_jax.config import MeshConfig
      >>> jax_environment(MeshConfig(pipe=2), "cpu", environment={})["XLA_FLAGS"]
      '--xla_force_host_platform_device_count=2'
    """
    # 1: no information, 2: no warnings, of which the service of several processes has one per start
    level = "1" if num_processes == 1 else "2"
    quiet = {"TF_CPP_MIN_LOG_LEVEL": environment.get("TF_CPP_MIN_LOG_LEVEL", level)}
    if platform == "gpu":
        return {**quiet, "JAX_PLATFORMS": "cuda,cpu"}
    if platform != "cpu":
        return quiet
    flags = environment.get("XLA_FLAGS", "").split()
    given = any(flag.startswith(COUNT_FLAG) for flag in flags)
    if not given or mesh.virtual_devices or mesh.pipe or mesh.data * mesh.tensor > 1:
        flags = [flag for flag in flags if not flag.startswith(COUNT_FLAG)]
        flags.append(f"{COUNT_FLAG}={devices_of_process(mesh, num_processes)}")
    return {**quiet, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}


def devices_of_process(mesh: MeshConfig, num_processes: int) -> int:
    """Virtual CPU devices of each process.

    Raises:
      UserError: they cannot be shared evenly.
    """
    count = num_virtual_devices(mesh)
    if count % num_processes:
        raise UserError(
            f"{count} virtual CPU devices (mesh.virtual_devices, or what the mesh takes) cannot be "
            f"shared by {num_processes} processes; use --mesh.virtual_devices "
            f"{-(-count // num_processes) * num_processes}"
        )
    return count // num_processes


def count_ranks(mesh: MeshConfig, present: int, *, platform: str) -> int:
    """Pipeline ranks: as the settings say, or as many as there are devices for.

    Args:
      mesh: the settings.
      present: devices of all processes.
      platform: what they are, as JAX calls it.

    Raises:
      UserError: there are too few devices.
    """
    others = mesh.data * mesh.tensor
    ranks = mesh.pipe or max(1, present // others)
    asked = others * ranks
    if asked <= present:
        return ranks
    more = f"--mesh.virtual_devices {asked}" if platform == "cpu" else "more GPUs"
    single = " ".join(f"--mesh.{n} 1" for n in ("data", "tensor") if getattr(mesh, n) > 1)
    fewer = f"--mesh.pipe {present // others}" if present >= others else single
    pipelines = f"mesh.data={mesh.data} pipelines of " * (mesh.data > 1)
    shared = f" of mesh.tensor={mesh.tensor} devices" * (mesh.tensor > 1)
    raise UserError(
        f"{pipelines}mesh.pipe={ranks} ranks{shared} need as many devices, {present} are "
        f"present; use {fewer} or {more}"
    )


def _nvidia_smi(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def memory_of_machine() -> int | None:
    """Bytes of its memory; `None` where the system does not know."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
