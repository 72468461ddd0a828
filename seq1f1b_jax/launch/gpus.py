"""The GPUs of this host, distributed over the processes."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from seq1f1b_jax.config import UserError
from seq1f1b_jax.launch.options import setting

VARIABLE = "CUDA_VISIBLE_DEVICES"


def shares(
    count: int, command: Sequence[str], environment: Mapping[str, str]
) -> list[dict[str, str]]:
    """What each process has to find in its environment, so that none takes another's GPU.

    Args:
      count: number of processes.
      command: theirs; with `--mesh.platform cpu` there is nothing to distribute.
      environment: of the launcher; its `CUDA_VISIBLE_DEVICES` says which GPUs there are, else
        `nvidia-smi -L` does.

    Raises:
      UserError: there are GPUs, and not an equal number for each.

    Example:
      >>> shares(2, ["train.py"], {"CUDA_VISIBLE_DEVICES": "4,5,6,7"})
      [{'CUDA_VISIBLE_DEVICES': '4,5'}, {'CUDA_VISIBLE_DEVICES': '6,7'}]
    """
    first = environment.get("JAX_PLATFORMS", "").split(",")[0]
    platform = setting(command, "mesh.platform") or first or "cuda"
    gpus = _gpus(environment) if platform in ("cuda", "gpu") else []
    if count == 1 or not gpus:
        return [{} for _ in range(count)]
    if len(gpus) % count:
        fits = " or ".join(str(n) for n in range(1, len(gpus) + 1) if len(gpus) % n == 0)
        raise UserError(
            f"{len(gpus)} GPUs ({','.join(gpus)}) cannot be shared evenly by {count} processes; "
            f"use --processes {fits}, or name fewer GPUs in {VARIABLE}"
        )
    each = len(gpus) // count
    return [{VARIABLE: ",".join(gpus[i * each : (i + 1) * each])} for i in range(count)]


def _gpus(environment: Mapping[str, str]) -> list[str]:
    if VARIABLE in environment:
        named = [name.strip() for name in environment[VARIABLE].split(",")]
        return [] if named[0] in ("", "-1") else [name for name in named if name]
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return []
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False,
            env=dict(environment),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE) if done.returncode == 0 else []
