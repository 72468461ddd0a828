"""Which processes make up a run: from the command line, or from their launcher.

| who | how it is known | seen in |
|---|---|---|
| Kubeflow Trainer's JAX runtime | `JAX_COORDINATOR_ADDRESS` and others | sources of 2.3 |
| SLURM | `SLURM_STEP_*` of `srun` | manual of 23.11 |
| Open MPI 4 (ORTE) | `OMPI_COMM_WORLD_*`, `OMPI_MCA_orte_hnp_uri` | 4.1.8 |
| Open MPI 5 (PRRTE) | `OMPI_COMM_WORLD_*`, `PMIX_NAMESPACE` | 5.0.11 |
| another PMIx launcher | `PMIX_RANK`; only its library knows how many | `prterun` of 5.0.11 |

Kubernetes needs no detection: `launch/jobset.yaml` passes its indices as settings. JAX's own
detection is not used: it would wait for peers in a job of one task, gives one device to a task
that has a node to itself, and needs mpi4py for Open MPI 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.config import DistributedConfig, UserError

NAMES = ("coordinator", "num_processes", "process_id")
PROCESS_ID, RANK = "distributed.process_id", "PMIX_RANK"
LOOPBACK = "127.0.0.1"

FIRST_PORT, NUM_PORTS = 61440, 4096
"""Where ports chosen by job number start, so that all processes of a job choose the same."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees it.

    Attributes:
      count: how many there are.
      index: which one this is.
      coordinator: `host:port` that process 0 listens on; None for one process.
      local_index: which one this is on its host, where each of them has one device of it.
      found: how this was found.
    """

    count: int = 1
    index: int = 0
    coordinator: str | None = None
    local_index: int | None = None
    found: str = "settings"

    @property
    def messages(self) -> tuple[str, ...]:
        """A line for the user: whom this process waits for."""
        meeting = f"meeting {self.count} processes (by {self.found}) at {self.coordinator}"
        return (meeting,) * (self.count > 1)


def find_processes(config: DistributedConfig, environment: Mapping[str, str]) -> Processes:
    """The processes of this run.

    Args:
      config: settings of the command line come first.
      environment: variables set by the launcher come second.

    Raises:
      UserError: what is given does not fit together, or does not suffice.

    Example:
      >>> from seq1f1b_jax.config import DistributedConfig
      >>> find_processes(DistributedConfig(), {"HOME": "/root"}).count
      1
    """
    if any(getattr(config, name) is not None for name in NAMES):
        return _from_settings(config, environment)
    if config.detect == "never":
        return Processes()
    known = (_from_jax_variables, _from_slurm, _from_open_mpi, _from_pmix)
    found = (find(environment) for find in known)
    return next((processes for processes in found if processes is not None), Processes())


def _from_settings(config: DistributedConfig, environment: Mapping[str, str]) -> Processes:
    given = {f"distributed.{name}": getattr(config, name) for name in NAMES}
    if given[PROCESS_ID] is None and RANK in environment:
        given[PROCESS_ID] = environment[RANK]
    missing = [name for name, value in given.items() if value is None]
    if missing:
        present = ", ".join(f"{k}={v}" for k, v in given.items() if v is not None)
        raise UserError(
            f"{present} without {' and '.join(missing)}: several processes need all three; give "
            "them, or start with python -m seq1f1b_jax.launch, which does"
        )
    return _checked(given, found="settings")


def _from_jax_variables(environment: Mapping[str, str]) -> Processes | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if any(name not in environment for name in names):
        return None
    return _checked({name: environment[name] for name in names}, found="JAX_* variables")


def _checked(given: Mapping[str, Any], *, found: str) -> Processes:
    """Processes by address, number and index, each under its own name.

    Raises:
      UserError: they cannot be meant.
    """
    (where, address), (how_many, count), (which, index) = given.items()
    try:
        count, index = int(count), int(index)
    except ValueError as error:
        raise UserError(f"{how_many}={count}, {which}={index}: both are whole numbers") from error
    if count < 1:
        raise UserError(f"{how_many}={count} must be above 0; use 1 or more")
    if not 0 <= index < count:
        raise UserError(
            f"{which}={index} of {how_many}={count}: processes are counted from 0; use 0 to "
            f"{count - 1}"
        )
    parts = re.fullmatch(r"(?:\[[\da-fA-F:]+\]|[^\s:]+):(\d{1,5})", address)
    if parts is None or not 1 <= int(parts[1]) <= 65535:
        raise UserError(
            f"{where}={address!r} is not HOST:PORT, with a port from 1 to 65535; give the address "
            "on which process 0 can be reached, such as 10.0.0.1:61440"
        )
    return Processes(count, index, address, found=found) if count > 1 else Processes()


def _from_slurm(environment: Mapping[str, str]) -> Processes | None:
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(name not in environment for name in names):
        return None
    job, nodes, count, index = (environment[name] for name in names)
    if int(count) == 1:
        return Processes()
    num_local = -(-int(count) // int(environment.get("SLURM_STEP_NUM_NODES", 1)))
    local = own_device(environment, int(environment.get("SLURM_LOCALID", 0)), num_local)
    address = f"{first_host(nodes)}:{_port(int(job))}"
    return Processes(int(count), int(index), address, local, found="SLURM")


def _from_open_mpi(environment: Mapping[str, str]) -> Processes | None:
    """Ranks of `mpirun`; the first is where `mpirun` is, unless a list of hosts leaves it out."""
    names = ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")
    values = [environment.get(f"OMPI_COMM_WORLD_{name}") for name in names]
    if None in values:
        return None
    count, index, num_local, local = map(int, values)
    if count == 1:
        return Processes()
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    orte = re.match(r"(\d+)\..*?tcp://([^,:]+)", uri)
    prrte = re.fullmatch(r"\w+-(.+)-(\d+)@\d+", environment.get("PMIX_NAMESPACE", ""))
    if orte:
        host, job = orte[2], int(orte[1]) >> 12
    elif prrte:
        host, job = prrte[1], int(prrte[2])
    else:
        raise UserError(
            f"mpirun started {count} processes and does not say where the first one is; give "
            "--distributed.coordinator HOST:PORT, --distributed.num_processes and "
            "--distributed.process_id"
        )
    host = LOOPBACK if num_local == count else host
    local = own_device(environment, local, num_local)
    return Processes(count, index, f"{host}:{_port(job)}", local, found="Open MPI")


def _from_pmix(environment: Mapping[str, str]) -> Processes | None:
    """A rank without the number of ranks.

    Raises:
      UserError: there is one.
    """
    if RANK not in environment or "PMIX_NAMESPACE" not in environment:
        return None
    raise UserError(
        f"a PMIx launcher started this process ({environment['PMIX_NAMESPACE']}, rank "
        f"{environment[RANK]}) and does not say how many there are; give "
        "--distributed.coordinator HOST:PORT and --distributed.num_processes N, the rank is known; "
        "or --distributed.detect never, if it is the only one"
    )


def own_device(environment: Mapping[str, str], local: int, num_local: int) -> int | None:
    """Which of the devices that a process sees is its own; None where all of them are.

    Args:
      environment: `CUDA_VISIBLE_DEVICES`, and whether SLURM gave GPUs to each task.
      local: which process of its host this is.
      num_local: how many its host has.

    Example:
      >>> own_device({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2, 4)
      2
      >>> own_device({"CUDA_VISIBLE_DEVICES": "2"}, 2, 4)  # --gpus-per-task=1
    """
    if num_local == 1 or "SLURM_GPUS_PER_TASK" in environment:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    alone = visible is not None and len(visible.split(",")) < num_local
    return None if alone else local


def first_host(nodes: str) -> str:
    """The first host of a SLURM list of nodes.

    Example:
      >>> first_host("gpu[007,010-012],login1"), first_host("rack[1-2]n[3,5]"), first_host("a,b")
      ('gpu007', 'rack1n3', 'a')
    """
    first = re.findall(r"(?:[^,\[]|\[[^\]]*\])*", nodes)[0]
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first)


def _port(job: int) -> int:
    return FIRST_PORT + job % NUM_PORTS
