"""XLA flags as named presets; none is set that the installed jaxlib does not know.

XLA ends the process at a flag that it does not know, and flags come and go with versions. So
another process parses them first, and nothing else (about 0.4 s). The reasons
and sources of the flags are in `docs/design/xla.md`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from seq1f1b_jax.config import UserError

Flags = Mapping[str, str]

PRESETS: Mapping[str, Flags] = MappingProxyType({
    "default": {},
    "overlap": {"xla_gpu_enable_latency_hiding_scheduler": "true"},
    "memory": {
        "xla_gpu_enable_latency_hiding_scheduler": "false",
        "xla_gpu_enable_analytical_sol_latency_estimator": "false",
    },
    "command_buffers": {"xla_gpu_enable_command_buffer": "+WHILE"},
    "deterministic": {"xla_gpu_deterministic_ops": "true"},
})  # fmt: skip
"""Preset -> flag -> value, for GPUs."""

HALVES: Flags = MappingProxyType({"xla_gpu_reduce_scatter_combine_threshold_bytes": "1"})
"""What `executor.halves` needs: else both halves wait for one combined collective."""

OFFLOAD: Flags = MappingProxyType({"xla_gpu_memory_limit_slop_factor": "1000"})
"""What `executor.offload` needs, in percent of the device's memory. XLA counts host memory as the
device's; what it takes for too large it recomputes in parts, and schedules without overlap. With
`auto` it is set before anyone knows how many layers that will be."""


def flags_of_executor(*, halves: bool, offload: bool) -> Flags:
    """What settings of the executor need.

    Example:
      >>> flags_of_executor(halves=False, offload=True)
      {'xla_gpu_memory_limit_slop_factor': '1000'}
    """
    return {**(HALVES if halves else {}), **(OFFLOAD if offload else {})}


PROBE_SECONDS = 120
_PROBE = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from jaxlib import xla_client
xla_client.CompileOptions()
"""


@dataclass(frozen=True)
class Environment:
    """What JAX is to find when it is imported.

    Attributes:
      variables: to set before that.
      messages: which flags are set, which are not and why, in lines for the user.
    """

    variables: Mapping[str, str]
    messages: tuple[str, ...]


def xla_environment(
    preset: str,
    platform: str,
    *,
    environment: Mapping[str, str],
    more: Flags = MappingProxyType({}),
    refused: Callable[[Flags], Flags] | None = None,
) -> Environment:
    """The flags of a preset that can be set, added to those in `XLA_FLAGS`, which win.

    Args:
      preset: a key of `PRESETS`.
      platform: from `choose_platform`; the flags are for `gpu`.
      environment: present variables.
      more: flags beside the preset's.
      refused: the flags that jaxlib does not take, and why; default: ask the installed one.

    Raises:
      UserError: no such preset, or `XLA_FLAGS` names a file.

    Example:
      >>> xla_environment("deterministic", "gpu", environment={}).variables
      {'XLA_FLAGS': '--xla_gpu_deterministic_ops=true'}
    """
    if preset not in PRESETS:
        raise UserError(f"xla.preset={preset!r} is unknown; use one of {', '.join(PRESETS)}")
    wanted = {**PRESETS[preset], **more}
    if not wanted:
        return Environment({}, ())
    if platform != "gpu":
        message = f"xla.preset={preset}: its flags are for GPUs, none set: {platform}"
        return Environment({}, (message,))
    own = environment.get("XLA_FLAGS", "")
    if own.strip() and not own.lstrip().startswith("-"):
        raise UserError(
            f"XLA_FLAGS={own} names a file, to which xla.preset={preset} cannot add; write the "
            "flags themselves into XLA_FLAGS, or use --xla.preset default"
        )
    kept = {name: value for name, value in wanted.items() if name in flag_names(own)}
    asked = {name: value for name, value in wanted.items() if name not in kept}
    ask = refused or partial(refused_flags, environment=environment)
    unknown = ask(asked)
    new = {name: value for name, value in asked.items() if name not in unknown}
    messages = [f"xla.preset={preset}: {flags_text(new) or 'no flag set'}"]
    messages += [f"  --{name} left out: {reason}" for name, reason in unknown.items()]
    messages += [f"  --{name} is in XLA_FLAGS already, which wins" for name in kept]
    variables = {"XLA_FLAGS": f"{own} {flags_text(new)}".strip()} if new else {}
    return Environment(variables, tuple(messages))


def flag_names(flags: str) -> set[str]:
    """Names of the flags in a value of `XLA_FLAGS`.

    Example:
      >>> sorted(flag_names("--xla_gpu_deterministic_ops --xla_dump_to=dumps"))
      ['xla_dump_to', 'xla_gpu_deterministic_ops']
    """
    return set(re.findall(r"(?:^|\s)--?(\w+)", flags))


def flags_text(flags: Flags) -> str:
    """Flags as `XLA_FLAGS` wants them."""
    return " ".join(f"--{name}={value}" for name, value in flags.items())


def refused_flags(
    flags: Flags, *, environment: Mapping[str, str], python: str = sys.executable
) -> dict[str, str]:
    """Flags that the installed jaxlib does not take, with the reason; the others it does take.

    Args:
      flags: name -> value.
      environment: variables of the process that is asked; its `XLA_FLAGS` are `flags`.
      python: whose jaxlib.

    Example:
      >>> import os
      >>> refused_flags({"xla_gpu_nonsense": "true"}, environment=os.environ)
      {'xla_gpu_nonsense': 'jaxlib does not know it'}
    """
    refused: dict[str, str] = {}
    while left := {name: flags[name] for name in flags if name not in refused}:
        status, output = _try(left, environment, python)
        if status == 0:
            break
        blamed = blamed_flags(output, left)
        refused |= blamed or dict.fromkeys(left, f"jaxlib cannot be queried: {_last_line(output)}")
    return refused


def blamed_flags(output: str, flags: Flags) -> dict[str, str]:
    """The flags that XLA complained about before it ended the process, each with the complaint.

    Example:
      >>> blamed_flags("Unknown flag in XLA_FLAGS: --xla_old=true", {"xla_old": "true"})
      {'xla_old': 'jaxlib does not know it'}
    """
    unknown = "".join(re.findall(r"Unknown flags? in XLA_FLAGS:(.*)", output))
    found = {name: "jaxlib does not know it" for name in flags if name in flag_names(unknown)}
    for name in re.findall(r"(?:interpret value .* for flag |Illegal value for --)(\w+)", output):
        if name in flags:
            found[name] = f"jaxlib does not take the value {flags[name]}"
    return found


def _try(flags: Flags, environment: Mapping[str, str], python: str) -> tuple[int, str]:
    """Exit status and stderr of a process that does nothing but read the flags."""
    environment = {**environment, "XLA_FLAGS": flags_text(flags), "TF_CPP_MIN_LOG_LEVEL": "0"}
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], env=environment, capture_output=True, text=True,
            timeout=PROBE_SECONDS, check=False, errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stderr


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
