"""Compile for meshes of H100s without a GPU, driver or CUDA, on any Linux machine; run nothing.

    mesh = h100_mesh((4,), ("pipe",))
    jit(f).lower(<ShapeDtypeStructs sharded over the mesh>).compile().as_text()

Needs the extra `aot` (the wheel `jax-cuda12-pjrt` of jax's version), and `JAX_PLATFORMS=cpu` set
before jax is imported. Nothing is autotuned, so matmul scratch is not representative, and there is
no cost analysis.

The wheel may be installed as a package, where JAX finds it and warns of missing GPUs in every
program, or in the folder `aot` of the environment (`pip install --target`, as `make test` does),
where only this module finds it.
"""

import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_address_bits: 64 pcie_bandwidth: 34359738368 name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0" device_interconnect_info { active_links: 18 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""A `GpuTargetConfigProto`: the device that XLA compiles for."""

PLUGIN = Path(sys.prefix, "aot", "jax_plugins", "xla_cuda12", "__init__.py")
"""Where `make test` installs the wheel's plugin."""


def has_aot() -> bool:
    """Whether the extra `aot` is installed."""
    return _is_package() or PLUGIN.is_file()


def _is_package() -> bool:
    try:
        return bool(importlib.metadata.version("jax-cuda12-pjrt"))
    except importlib.metadata.PackageNotFoundError:
        return False


@cache
def _load_plugin() -> None:
    """Register the compiler of the folder `aot`, under a name that no package uses."""
    if _is_package():
        return
    jax.devices()  # before registering: JAX looks for devices once, and must not find its GPUs
    spec = importlib.util.spec_from_file_location("seq1f1b_aot_plugin", PLUGIN)
    assert spec is not None and spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    plugin.initialize()


def h100_mesh(shape: Sequence[int], axis_names: Sequence[str], *, num_hosts: int = 1) -> Mesh:
    """A mesh of H100s, for `jit(f).lower(...).compile()` only.

    Args:
      shape: sizes of the mesh axes, outermost first.
      axis_names: their names.
      num_hosts: hosts, with equally many devices each; NVLink joins those of a host.

    Raises:
      ValueError: the extra `aot` is not installed, or devices do not fill the hosts.

    Example:
      >>> h100_mesh((4,), ("pipe",)).size if has_aot() else 4
      4
    """
    if not has_aot():
        raise ValueError(
            "compiling for H100 needs the XLA:GPU compiler; install the extra: pip install '.[aot]'"
        )
    _load_plugin()
    num_devices = math.prod(shape)
    if num_devices % num_hosts:
        raise ValueError(
            f"{num_devices} devices do not fill num_hosts={num_hosts} equally; use a divisor"
        )
    topology = f"1x{num_hosts}x{num_devices // num_hosts}"
    devices = topologies.get_topology_desc(
        "", platform="cuda", target_config=_H100, topology=topology
    ).devices
    axis_types = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(tuple(shape), tuple(axis_names), axis_types=axis_types, devices=devices)
