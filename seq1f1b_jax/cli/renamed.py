"""Settings that had another name before: an old command line or recipe is told the new one."""

from collections.abc import Mapping
from types import MappingProxyType

_COUNTS = (
    "which counts sequences: give it the old number times schedule.num_microbatches times "
    "data.microbatch_size"
)
SAME: Mapping[str, str] = MappingProxyType(
    {
        "executor.residuals": "executor.recompute",
        "schedule.num_virtual": "schedule.stages_per_rank",
    }
)
"""Old name -> new name of the same thing: what a run has kept is read under the new one."""

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        **SAME,
        "train.eval_batches": f"train.eval_sequences, {_COUNTS}",
        "num_batches": f"num_sequences, {_COUNTS}",
    }
)
"""Old name -> what the user is told. What the others meant depends on other settings."""
