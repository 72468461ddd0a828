"""Flags with which XLA compiles quickly on CPUs, for tests that run a program a few times.

Level 0 of LLVM without its expensive passes, by emitters without MLIR, in one piece.
"""

QUICK_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
