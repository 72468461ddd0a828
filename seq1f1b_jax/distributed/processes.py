"""Which processes make up a run: as the command line says, or as SLURM or Open MPI do.

Kubernetes needs no detection: `launch/jobset.yaml` passes its indices as settings. JAX's own
detection is not asked: it would wait for peers in a job of one task, and gives one device to a task
that has a node to itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from seq1f1b_jax.config import DistributedConfig, UserError

NAMES = ("coordinator", "num_processes", "process_id")

FIRST_PORT, NUM_PORTS = 61440, 4096
"""Where a port is chosen by the number of the job, so that all of its processes choose alike."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees it.

    Attributes:
      count: how many there are.
      index: which one this is.
      coordinator: `host:port` that process 0 listens on; None for one process.
      local_index: which one this is on its host, where each of them has one device of it.
      found: who said so.
    """

    count: int = 1
    index: int = 0
    coordinator: str | None = None
    local_index: int | None = None
    found: str = "settings"

    @property
    def told(self) -> tuple[str, ...]:
        """A line for the user: whom this process waits for."""
        meeting = f"meeting {self.count} processes (by {self.found}) at {self.coordinator}"
        return (meeting,) * (self.count > 1)


def find_processes(config: DistributedConfig, environment: Mapping[str, str]) -> Processes:
    """The processes of this run.

    Args:
      config: settings of the command line come first.
      environment: variables of SLURM or Open MPI come second.

    Raises:
      UserError: settings that do not fit together.
    """
    if any(getattr(config, name) is not None for name in NAMES):
        return _from_settings(config)
    if config.detect == "never":
        return Processes()
    return _from_slurm(environment) or _from_open_mpi(environment) or Processes()


def _from_settings(config: DistributedConfig) -> Processes:
    address, count, index = config.coordinator, config.num_processes, config.process_id
    if address is None or count is None or index is None:
        given = {f"distributed.{name}": getattr(config, name) for name in NAMES}
        missing = [name for name, value in given.items() if value is None]
        present = ", ".join(f"{k}={v}" for k, v in given.items() if v is not None)
        raise UserError(
            f"{present} without {' and '.join(missing)}: several processes need all three; give "
            "them, or start with python -m seq1f1b_jax.launch, which does"
        )
    if count < 1:
        raise UserError(f"distributed.num_processes={count} must be above 0; use 1 or more")
    if not 0 <= index < count:
        raise UserError(
            f"distributed.process_id={index} of distributed.num_processes={count}: processes are "
            f"counted from 0; use 0 to {count - 1}"
        )
    parts = re.fullmatch(r"(?:\[[\da-fA-F:]+\]|[^\s:]+):(\d{1,5})", address)
    if parts is None or not 1 <= int(parts[1]) <= 65535:
        raise UserError(
            f"distributed.coordinator={address!r} is not HOST:PORT, with a port from "
            "1 to 65535; give the address on which process 0 can be reached, such as 10.0.0.1:61440"
        )
    return Processes(count, index, address) if count > 1 else Processes()


def _from_slurm(environment: Mapping[str, str]) -> Processes | None:
    """Tasks of the SLURM step; one device each where several share a node."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(name not in environment for name in names):
        return None
    job, nodes, count, index = (environment[name] for name in names)
    if int(count) == 1:
        return None
    shared = int(count) > int(environment.get("SLURM_STEP_NUM_NODES", 1))
    local = int(environment["SLURM_LOCALID"]) if shared else None
    address = f"{first_host(nodes)}:{_port(int(job))}"
    return Processes(int(count), int(index), address, local, found="SLURM")


def _from_open_mpi(environment: Mapping[str, str]) -> Processes | None:
    """Ranks of `mpirun`; one device each where several share a host."""
    count = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if count == 1:
        return None
    index = int(environment["OMPI_COMM_WORLD_RANK"])
    shared = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)) > 1
    local = int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]) if shared else None
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    launcher = re.search(r"tcp://([^,:]+)", uri)
    if launcher is None:
        raise UserError(
            f"mpirun started {count} processes and does not tell where the first one is; give "
            "distributed.coordinator, distributed.num_processes and distributed.process_id"
        )
    address = f"{launcher[1]}:{_port(int(uri.split('.')[0]) >> 12)}"
    return Processes(count, index, address, local, found="Open MPI")


def first_host(nodes: str) -> str:
    """The first host of a SLURM list of nodes.

    Example:
      >>> first_host("gpu[007,010-012],login1"), first_host("alpha,beta")
      ('gpu007', 'alpha')
    """
    prefix, rest = re.match(r"([^\[,]*)(?:\[([^\],-]*))?", nodes).groups()
    return prefix + (rest or "")


def _port(job: int) -> int:
    return FIRST_PORT + job % NUM_PORTS
