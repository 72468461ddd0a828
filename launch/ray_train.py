"""Train on a Ray cluster: Ray Train places the processes and starts them again, checkpoints resume.

    python launch/ray_train.py --workers 4 --gpus 8 --restarts 3 -- \
        --config gpu8_2.7b_32k --mesh.data 4 --data.microbatch_size 4

Everything behind `--` goes to train.py, which each worker runs as a process of its own: JAX reads
its flags when it is imported, signals need a main thread, and the watchdog ends a process with a
status. `JaxTrainer` is therefore given no accelerator: it would import JAX and meet the others in
the worker itself, and give every worker of a host the same GPUs. The GPUs are Ray's to deal out all
the same, by `CUDA_VISIBLE_DEVICES`. The repository and `train.output_dir` are on storage that all
hosts share. Needs `pip install '.[ray]'`; seen with Ray 2.60.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ray
import ray.train
from ray.train.v2.jax import JaxTrainer
from ray.train.v2.jax.config import JaxConfig

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.exits import LOST_PEER
from seq1f1b_jax.launch.death import exit_status, first_cause
from seq1f1b_jax.launch.options import Parser, check_resumes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit status: that of the worker's process which ended first, as the launcher reports it;
      2 after one line about bad input, which is not started again.
    """
    try:
        options, command = parse(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ray.init(address=options.address, log_to_driver=True)
    ends = Ends.remote()
    job = {"root": str(ROOT), "folder": os.getcwd(), "command": command, "ends": ends}
    own = {"GPU": options.gpus} if options.gpus else {"CPU": 1}
    trainer = JaxTrainer(
        work, train_loop_config=job, jax_config=JaxConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=options.workers, use_gpu=options.gpus > 0, resources_per_worker=own
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(Path("runs", "ray").absolute()),
            failure_config=ray.train.FailureConfig(max_failures=options.restarts),
        ),
    )  # fmt: skip
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        print(f"ended: {str(error).splitlines()[0]}", file=sys.stderr)
        codes = ray.get(ends.all.remote()) or {0: LOST_PEER}
    else:
        codes = ray.get(ends.all.remote())
    bad = {rank: code for rank, code in codes.items() if code}
    return exit_status(bad[first_cause(bad)]) if bad else 0


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options before `--`, and the arguments of train.py behind it.

    Raises:
      UserError: bad input, in one line.
    """
    parser = Parser(prog="python launch/ray_train.py", allow_abbrev=False)
    parser.add_argument("--workers", type=int, required=True, help="how many processes")
    parser.add_argument("--gpus", type=int, default=0, help="of each; default 0: on CPUs")
    parser.add_argument("--restarts", type=int, default=3, help="of the whole set; default 3")
    parser.add_argument("--address", help="of the cluster; default: this one, or a new one")
    cut = list(arguments).index("--") if "--" in arguments else len(arguments)
    options, unknown = parser.parse_known_args(arguments[:cut])
    if unknown:
        raise UserError(f"{' '.join(unknown)}: unknown; arguments of train.py go behind --")
    if options.workers < 1 or options.gpus < 0 or options.restarts < 0:
        raise UserError(
            f"--workers {options.workers} --gpus {options.gpus} --restarts {options.restarts}: use "
            "1 or more workers, and no negative number"
        )
    command = list(arguments[cut + 1 :])
    check_resumes(command, restarts=options.restarts)
    return options, command


@ray.remote(num_cpus=0)
class Ends:
    """How the processes of the last attempt ended, by their rank."""

    def __init__(self) -> None:
        self._attempt = ""
        self._codes: dict[int, int] = {}

    def add(self, attempt: str, rank: int, code: int) -> dict[int, int]:
        """A process has ended; how those of its attempt have by now."""
        if attempt != self._attempt:
            self._attempt, self._codes = attempt, {}
        self._codes[rank] = code
        return self._codes

    def all(self) -> dict[int, int]:
        """Exit statuses."""
        return self._codes


def work(job: Mapping[str, Any]) -> None:
    """Run train.py in this worker, and fail where a new start can mend its end."""
    from ray.train.collective import broadcast_from_rank_zero

    sys.path.insert(0, job["root"])
    from seq1f1b_jax.distributed.exits import USER_ERROR
    from seq1f1b_jax.launch.death import can_be_mended, described
    from seq1f1b_jax.launch.guard import Guard

    context = ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    address = broadcast_from_rank_zero(_free_address() if rank == 0 else None)
    values = {
        "coordinator": address, "num_processes": count, "process_id": rank
    }  # fmt: skip
    who = [word for name, value in values.items() for word in (f"--distributed.{name}", str(value))]
    program = [sys.executable, "-u", str(Path(job["root"], "train.py"))]
    with Guard() as guard:  # Ray kills a worker, and not what it has started
        process = subprocess.Popen(
            [*program, *job["command"], *who], cwd=job["folder"], process_group=0
        )
        guard.watch(process.pid)
        code = process.wait()
        guard.forget(process.pid)
    codes = ray.get(job["ends"].add.remote(address, rank, code))
    if can_be_mended(code) and USER_ERROR not in codes.values():
        raise RuntimeError(described(rank, code))


def _free_address() -> str:
    """Of this host, as Ray knows it, with a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


if __name__ == "__main__":
    sys.exit(main())
