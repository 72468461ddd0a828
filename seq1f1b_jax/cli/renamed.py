"""Settings that had another name before: an old command line or recipe is told the new one.

They are not translated: what they meant depends on other settings.
"""

from collections.abc import Mapping
from types import MappingProxyType

COUNTS = (
    "which counts sequences: give it the old number times schedule.num_microbatches times "
    "data.microbatch_size"
)
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "train.eval_batches": f"train.eval_sequences, {COUNTS}",
        "num_batches": f"num_sequences, {COUNTS}",
    }
)
