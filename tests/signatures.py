"""Types, shapes and dtypes in signatures are checked at every call while tests run.

Not at the doors that users come through (`pipeline.step`, `inference`), which refuse bad input by
themselves, in words. The array fields of NamedTuples are not checked: one may hold specs or shapes
instead.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

PARTS = ("ops", "pipeline.executor", "pipeline.params", "pipeline.memory", "models")
CHECKED = [f"seq1f1b_jax.{part}" for part in PARTS]

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check_signatures() -> None:
    """Modules imported from now on are checked."""
    install_import_hook(CHECKED, f"{__name__}.checker")
