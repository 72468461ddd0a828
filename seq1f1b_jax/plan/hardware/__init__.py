"""What devices can do, as data: one YAML file per device, with the source of every number.

    peak FLOP/s and bytes/s are those of the data sheet; what is reached of them is a share, and
    a share falls for small work:  share(n) = most * n / (n + half)

n are the tokens of a matmul, or the queries of attention; `half` is where half of it is reached.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from seq1f1b_jax.config import UserError

SUFFIX = ".yaml"


class Share(NamedTuple):
    """What is reached of a peak.

    Attributes:
      most: for large work.
      half: size of the work at which half of it is reached.

    Example:
      >>> Share(most=0.7, half=256)(256)
      0.35
    """

    most: float
    half: float

    def __call__(self, size: float) -> float:
        """The share for work of a size."""
        return self.most * size / (size + self.half)


@dataclass(frozen=True)
class Hardware:
    """A device, its links and its host. Bytes, bytes per second, FLOP per second, seconds.

    Attributes:
      name: for people to read.
      words: words of the device's name by which JAX reports it.
      kind: `gpu` or `cpu`.
      memory: of a device.
      reserve: share of it that a run leaves free: context, libraries, fragmentation.
      has_bfloat16: whether it computes in bfloat16; else in float32.
      has_cudnn: whether cuDNN's attention runs there.
      matmul_flops: peak of matmuls in the dtype that a run computes in.
      matmul_share: reached of it, by tokens.
      attention_forward, attention_backward: reached of it by attention, by queries.
      memory_bandwidth: peak of the device's memory.
      memory_share: reached of it.
      devices_per_host: in one host.
      link: between devices of a host, one way.
      network: between hosts, one way, for each device.
      link_share: reached of both.
      host_memory: of a host.
      host_link: between a device and its host, one way, while the other way is busy too.
      launch: of a kernel.
      host_read: of a loop's condition by the host, where a tick waits for it.
      host_reads: of these in a tick.
      sources: where each number is from.
    """

    name: str
    words: tuple[str, ...]
    kind: str
    memory: float
    reserve: float
    has_bfloat16: bool
    has_cudnn: bool
    matmul_flops: float
    matmul_share: Share
    attention_forward: Share
    attention_backward: Share
    memory_bandwidth: float
    memory_share: float
    devices_per_host: int
    link: float
    network: float
    link_share: float
    host_memory: float
    host_link: float
    launch: float
    host_read: float
    host_reads: int
    sources: Mapping[str, str]

    @property
    def usable(self) -> int:
        """Bytes of a device that a run may hold."""
        return int(self.memory * (1 - self.reserve))

    def bandwidth(self, num_devices: int) -> float:
        """Bytes per second between neighbours in a group of so many devices in a row."""
        peak = self.link if num_devices <= self.devices_per_host else self.network
        return peak * self.link_share


def names() -> list[str]:
    """Devices that are described here."""
    entries = files(__package__).iterdir()
    return sorted(e.name.removesuffix(SUFFIX) for e in entries if e.name.endswith(SUFFIX))


def find_hardware(name: str) -> Hardware:
    """A device by name, or from a YAML file of the same form.

    Raises:
      UserError: there is no such device or file, or the file lacks a number.

    Example:
      >>> find_hardware("h100-80g").matmul_flops
      989000000000000.0
    """
    if name.endswith((SUFFIX, ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--hardware {name} cannot be read: {error}") from error
        return _parsed(text, name)
    if name.lower() not in names():
        raise UserError(
            f"--hardware {name} is not known; use one of {', '.join(names())}, or a YAML file "
            "like theirs"
        )
    return _packaged(name.lower())


def hardware_of(device_kind: str) -> Hardware | None:
    """The device that JAX reports by a name; `None`: it is not described here.

    Example:
      >>> hardware_of("NVIDIA H100 80GB HBM3").name
      'H100 SXM 80 GB'
      >>> hardware_of("Quantum 9000") is None
      True
    """
    given = device_kind.replace("-", " ").lower().split()
    known = map(_packaged, names())
    return next((h for h in known if all(w in given for w in h.words)), None)


@cache
def _packaged(name: str) -> Hardware:
    entry = files(__package__) / (name + SUFFIX)
    return _parsed(entry.read_text(encoding="utf-8"), name)


def _parsed(text: str, name: str) -> Hardware:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise UserError(f"--hardware {name} is no YAML: {line}") from error
    wanted = [field.name for field in fields(Hardware) if field.name != "sources"]
    given = tree if isinstance(tree, dict) else {}
    wrong = sorted(set(wanted) ^ set(given))
    if wrong:
        what = "lacks" if wrong[0] in wanted else "has an unknown"
        raise UserError(
            f"--hardware {name} {what} {wrong[0]}; a file holds {', '.join(wanted)}, each as "
            "{value: ..., source: ...}"
        )
    for key, entry in given.items():
        if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            raise UserError(f"--hardware {name}: {key} must be {{value: ..., source: ...}}")
    values = {key: _typed(key, entry["value"], name) for key, entry in given.items()}
    return Hardware(**values, sources={key: entry["source"] for key, entry in given.items()})


def _typed(key: str, value: Any, name: str) -> Any:
    kind = Hardware.__annotations__[key]
    try:
        if kind is Share:
            return Share(float(value["most"]), float(value["half"]))
        if kind is float:
            number = float(value)
            if not number >= 0:
                raise ValueError
            return number
        if kind is int:
            return int(value)
        if kind is bool and isinstance(value, bool):
            return value
        if kind is str and isinstance(value, str):
            return value
        if isinstance(value, list):
            return tuple(str(word).lower() for word in value)
    except (TypeError, ValueError, KeyError):
        pass
    wanted = getattr(kind, "__name__", kind)
    raise UserError(f"--hardware {name}: {key}={value!r} must be a {wanted}")
