"""How the processes of a run meet: at our door, then at JAX's coordination service."""

from seq1f1b_jax.config import DistributedConfig
from seq1f1b_jax.distributed.door import bind_address, meet
from seq1f1b_jax.distributed.group import ALONE, SHUTDOWN_SECONDS, Group
from seq1f1b_jax.distributed.output import NotMet, at_most
from seq1f1b_jax.distributed.processes import Processes

JAX_PATIENCE = 3
"""JAX ends a process with a page of text after half of its time at the earliest: after our own."""


def start(processes: Processes, config: DistributedConfig) -> Group:
    """Meet the other processes; to be called before anything uses a device.

    Args:
      processes: which they are.
      config: how long to wait for them, and how soon a silent one counts as dead.

    Raises:
      NotMet: they do not come.
      UserError: this process is not let in, or the address cannot be used.
    """
    if processes.count == 1:
        return ALONE
    import jax
    from jax._src import distributed

    # CPU devices of several processes exchange by Gloo; without effect on GPUs
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Else JAX aborts this process when another dies, before anyone can report which; see `Watchdog`
    jax.config.update("jax_enable_recoverability", True)
    # Else JAX swallows a SIGTERM from here to the first step, and the run goes on as if none came
    jax.config.update("jax_enable_preemption_service", False)
    patience = config.heartbeat_timeout
    meet(processes, seconds=config.initialization_timeout, patience=patience)
    # JAX's own ends of a process that waits too long, or is silent, explain less: they come later
    with at_most(config.initialization_timeout, processes, _not_met(processes, config)):
        try:
            jax.distributed.initialize(
                processes.coordinator, processes.count, processes.index,
                local_device_ids=processes.local_index,
                initialization_timeout=config.initialization_timeout + SHUTDOWN_SECONDS,
                heartbeat_timeout_seconds=config.heartbeat_timeout * JAX_PATIENCE,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
                coordinator_bind_address=bind_address(processes.coordinator),
                cluster_detection_method="deactivate",
            )
        except (RuntimeError, ValueError) as error:
            raise _not_met(processes, config, f" ({str(error).splitlines()[0]})") from error
    return Group(processes.index, processes.count, distributed.global_state.client)


def _not_met(processes: Processes, config: DistributedConfig, reason: str = "") -> NotMet:
    return NotMet(
        f"all processes came to {processes.coordinator} (by {processes.found}), but JAX's service "
        f"did not begin there within {config.initialization_timeout} s{reason}; see that process 0 "
        "is still on that host"
    )
