"""The variables that JAX reads when it is first imported: which devices, which compiler flags."""

import sys
from collections.abc import Mapping
from types import ModuleType

from seq1f1b_jax.cli.devices import choose_platform, jax_environment, probe_machine
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
    flags = xla_environment(
        config.xla.preset, platform, environment={**environment, **devices},
        more=flags_of_executor(
            halves=config.executor.halves, offload=config.executor.offload != 0
        ),
    )
    return Environment({**devices, **flags.variables}, flags.messages)


def _leave_out_cuda_plugins() -> None:
    """Stand in for CUDA plugins: on the CPU JAX would load them, and they would find no driver."""
    for name in ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"):
        stand_in = ModuleType(name)
        vars(stand_in)["initialize"] = lambda: None
        sys.modules.setdefault(name, stand_in)
