"""Published schedules that are not offered here by that name: why, and what comes nearest."""

from types import MappingProxyType

_V = (
    "puts its stages in a V (rank p holds stages p and 2P-1-p), and here stage s is on rank s"
    " mod P; use seq-zb-h1, or seq1f1b-i for two stages on a rank"
)
_STALE = "updates with stale weights, and here every step is one exact gradient; use seq1f1b"

NOT_OFFERED = MappingProxyType(
    {
        "zb-h2": "reaches no bubble only by updating each rank before the others' gradient norms"
        " are known, and the update here waits for them; use seq-zb-h1, or let python -m"
        " seq1f1b_jax.explore --search --split --memory UNITS find an order of as many units",
        "zb-v": _V,
        "v-half": _V,
        "v-min": _V,
        "v-zb": _V,
        "dualpipev": _V,
        "hanayo": "puts its stages in waves, and here stage s is on rank s mod P; use seq1f1b-i",
        "dualpipe": "runs the model from both ends, with two copies of the parameters, and here a"
        " stage is on one rank; use seq-zb-h1 or seq1f1b-i",
        "chimera": "runs the model from both ends, with two copies of the parameters, and here a"
        " stage is on one rank; use seq1f1b or seq1f1b-i",
        "pipedream": _STALE,
        "pipedream-2bw": _STALE,
        "pipemare": _STALE,
        "interleaved-1f1b": "is 1f1b-i here, and seq1f1b-i with chunks",
        "interleaved-zero-bubble": "has no generator; a plan of it that torch wrote can be read"
        " from its CSV, or use seq-zb-h1",
        "looped-bfs": "has no generator; a plan of it that torch wrote can be read from its CSV, or"
        " use 1f1b-i",
    }
)
"""Name, in lower case -> why it is not offered, and what comes nearest."""

_SPELLINGS = {name.replace("-", ""): name for name in NOT_OFFERED} | {
    "zbvzerobubble": "zb-v",
    "zbv": "zb-v",
    "vhalf": "v-half",
    "vmin": "v-min",
}


def why_not_offered(name: str) -> str | None:
    """Why a published schedule is not offered; None for any other name.

    Example:
      >>> from seq1f1b_jax.schedule.not_offered import why_not_offered
      >>> why_not_offered("Interleaved1F1B")
      'is 1f1b-i here, and seq1f1b-i with chunks'
      >>> why_not_offered("seq1f1b") is None
      True
    """
    known = _SPELLINGS.get("".join(c for c in name.lower() if c.isalnum()))
    return None if known is None else NOT_OFFERED[known]
