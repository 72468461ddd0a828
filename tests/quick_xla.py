"""Flags with which XLA compiles quickly on CPUs, for tests that run a program a few times.

Level 0 of LLVM without its expensive passes, in one piece; and by emitters without MLIR where
jaxlib has them: 0.10 does, 0.12 ends at the flag.
"""

from importlib.metadata import version

HAS_OLD_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
QUICK_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
) + " --xla_cpu_use_fusion_emitters=false" * HAS_OLD_EMITTERS
