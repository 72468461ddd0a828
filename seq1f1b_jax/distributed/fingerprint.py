"""Whether all processes run the same; checked at the start, so that a difference is no hang."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.distributed.group import Group

CLOCK_SECONDS = 5.0
MISSING = "not there"
OTHER_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")
"""Of NVIDIA's libraries, which change results too."""
OWN = re.compile(
    r"JAX_(PROCESS_(ID|INDEX)|LOCAL_DEVICE_IDS|COORDINATOR_\w+|(PARTITION|SLICE)_INDEX"
    r"|\w+_VISIBLE_DEVICES|\w*CACHE\w*|DUMP_\w+|MTLS_\w+|LOG_\w+|LOGGING_\w+|DEBUG_LOG_\w+"
    r"|TRACEBACK_\w+)|XLA_FLAGS --xla_(dump_|gpu_dump_|\w*cache)\w*"
)
"""What may differ: identity, devices, folders and addresses of a process, and what it logs."""


def check_same(group: Group, parts: Mapping[str, Any], *, clock=time.time) -> list[str]:
    """Compare this process with the others.

    Args:
      group: the processes.
      parts: what must be equal, by a name that a user understands; JSON can hold it.
      clock: seconds; hosts whose clocks differ write logs that cannot be read together.

    Returns:
      Warnings: hosts whose clocks differ from that of process 0.

    Raises:
      UserError: which processes differ from process 0, and in what.
    """
    group.barrier("fingerprint")  # so that clocks are read at the same time
    own = json.dumps({"parts": {k: _text(v) for k, v in parts.items()}, "clock": clock()})
    answers = [json.loads(text) for text in group.gather("fingerprint", own)]
    if differing := differences([answer["parts"] for answer in answers]):
        raise UserError(
            "the processes of this run are not alike: " + "; ".join(differing) + "; start all of "
            "them with the same code, settings, variables and data"
        )
    offsets = [answer["clock"] - answers[0]["clock"] for answer in answers]
    return [
        f"the clock of process {index} differs by {offset:+.0f} s from that of process 0"
        for index, offset in enumerate(offsets)
        if abs(offset) > CLOCK_SECONDS
    ]


def differences(parts: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for every part in which a process differs from process 0.

    Example:
      >>> differences([{"jax": "1", "data": "x"}, {"jax": "2", "data": "x"}])
      ['jax is 2 in process 1 and 1 in process 0']
    """
    names = list(dict.fromkeys(name for part in parts for name in part))
    return [
        f"{name} is {_short(other.get(name, MISSING))} in process {index} and "
        f"{_short(parts[0].get(name, MISSING))} in process 0"
        for name in names
        for index, other in enumerate(parts)
        if other.get(name, MISSING) != parts[0].get(name, MISSING)
    ]


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting by its dotted name, without that which differs by process."""
    flat = {
        f"{section}.{name}": value
        for section, fields in asdict(config).items()
        for name, value in fields.items()
    }
    flat.pop("distributed.process_id", None)
    return {f"--{name}": value for name, value in flat.items()}


def numerics_of(environment: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, str]:
    """What configures JAX and XLA besides our settings, without what may differ.

    Args:
      environment: variables.
      options: JAX's own, as they are in effect; each has the name of a variable in small letters.

    Returns:
      Values by the names of their variables, XLA's flags one by one.

    Example:
      >>> variables = {"XLA_FLAGS": "--xla_a=1 --xla_dump_to=d", "JAX_PROCESS_ID": "1"}
      >>> numerics_of(variables, {"jax_enable_x64": True})
      {'JAX_ENABLE_X64': 'True', 'XLA_FLAGS --xla_a': '1'}
    """
    parts = {
        name.upper(): str(value) for name, value in sorted(options.items())
        if value is None or isinstance(value, str | int | float | Enum)
    }  # fmt: skip
    parts |= {
        name: text for name, text in sorted(environment.items())
        if name.startswith("JAX_") and name not in parts or name in OTHER_VARIABLES
    }  # fmt: skip
    for flag in environment.get("XLA_FLAGS", "").split():
        name, _, value = flag.partition("=")
        parts[f"XLA_FLAGS {name}"] = value or "set"
    return {name: text for name, text in parts.items() if not OWN.fullmatch(name)}


def code_hash() -> str:
    """SHA-256, shortened, of the sources that run."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    files = {*root.rglob("*.py"), *(root / "models").rglob("*.py")}  # a link, in a clone
    for path in sorted(files):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def file_hash(path: str | None) -> str:
    """SHA-256, shortened, of a file; of none where a class was not read from one."""
    content = b"" if path is None else Path(path).read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
