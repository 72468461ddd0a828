"""The variables that JAX reads when it is first imported: which devices, which compiler flags."""

import sys
from collections.abc import Mapping
from types import ModuleType

from seq1f1b_jax.cli.devices import (
    choose_platform,
    jax_environment,
    memory_of_machine,
    probe_machine,
)
from seq1f1b_jax.cli.xla_presets import Environment, flags_of_executor, xla_environment
from seq1f1b_jax.config import Config


def choose_environment(
    config: Config, num_processes: int, environment: Mapping[str, str]
) -> Environment:
    """Choose the platform, its devices and the compiler's flags; the caller sets the variables.

    Args:
      config: of the run.
      num_processes: that share simulated devices.
      environment: present variables.

    Raises:
      UserError: a platform that this machine does not have, or flags that nothing can be added to.
    """
    platform = choose_platform(config.mesh, machine=probe_machine(), environment=environment)
    devices = jax_environment(
        config.mesh, platform, environment=environment, num_processes=num_processes
    )
    if platform == "cpu":
        _leave_out_cuda_plugins()
    else:
        offload = config.executor.offload != 0
        devices |= memory_environment(environment, offload=offload)
    flags = xla_environment(
        config.xla.preset, platform, environment={**environment, **devices},
        more=flags_of_executor(
            halves=config.executor.halves, offload=config.executor.offload != 0
        ),
    )
    return Environment({**devices, **flags.variables}, flags.messages)


DEVICE_FRACTION = "0.93"
"""Of a GPU's memory for JAX, which takes three quarters by default."""
POOLS = (
    "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)  # fmt: skip
HOST_POOL = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"
"""The most pinned memory of a process, in GiB; 64 unless it is set."""


def memory_environment(environment: Mapping[str, str], *, offload: bool) -> dict[str, str]:
    """How much of the memory of GPUs and of their host JAX may take; what is set already wins.

    Example:
      >>> memory_environment({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, offload=False)
      {}
    """
    found = {}
    if not any(name in environment for name in POOLS):
        found[POOLS[0]] = DEVICE_FRACTION
    present = memory_of_machine()
    if offload and HOST_POOL not in environment and present is not None:
        found[HOST_POOL] = str(present >> 30)
    return found


def _leave_out_cuda_plugins() -> None:
    """Stand in for CUDA plugins: on the CPU JAX would load them, and they would find no driver."""
    for name in ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"):
        stand_in = ModuleType(name)
        vars(stand_in)["initialize"] = lambda: None
        sys.modules.setdefault(name, stand_in)
