"""The executor: Seq1F1B as one jitted scan on a device mesh, for any model of `stage.Stage`."""

from seq1f1b_jax.pipeline.build import build_step
from seq1f1b_jax.pipeline.checks.check_stage import check_stage
from seq1f1b_jax.pipeline.mesh import make_mesh
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.params.layout import Layout, make_layout
from seq1f1b_jax.pipeline.stage import Params, Stage
from seq1f1b_jax.pipeline.step import PipelineStep

__all__ = [
    "ExecutorOptions",
    "Layout",
    "Params",
    "PipelineStep",
    "Stage",
    "build_step",
    "check_stage",
    "make_layout",
    "make_mesh",
]
