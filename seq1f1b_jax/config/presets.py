"""Named model shapes.

2.7b to 30b have the widths and depths of the models in the Seq1F1B paper (arXiv 2406.03488):
untied, a vocabulary of about 50k tokens (here 50304, a multiple of 128), as many key/value heads as
query heads. Those of gpt are its models: LayerNorm, GELU and rotary positions. Their
`max_positions` counts with `positions="learned"` only. Those of llama have an MLP of 8/3 model_dim,
which gives them the parameter count in their name. `tiny` is for tests, `small` and `medium` for
bytes on a laptop or one small GPU.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

Fields = Mapping[str, int | float | bool | str]


def _shape(num_layers, model_dim, num_heads, *, vocab_size=50304, **fields) -> Fields:
    return MappingProxyType({
        "num_layers": num_layers, "model_dim": model_dim, "num_heads": num_heads,
        "num_kv_heads": num_heads, "mlp_dim": 4 * model_dim, "vocab_size": vocab_size, **fields,
    })


PRESETS: Mapping[str, Mapping[str, Fields]] = MappingProxyType({
    "gpt": MappingProxyType({
        "tiny": _shape(2, 32, 4, max_positions=128, vocab_size=64, tied=True),
        "small": _shape(4, 128, 4, max_positions=4096, vocab_size=256),
        "medium": _shape(8, 256, 8, max_positions=16384, vocab_size=256),
        "125m": _shape(12, 768, 12, max_positions=8192, tied=True),
        "350m": _shape(24, 1024, 16, max_positions=8192, tied=True),
        "1.3b": _shape(24, 2048, 16, max_positions=32768, tied=True),
        "2.7b": _shape(32, 2560, 32, max_positions=32768, positions="rotary"),
        "7b": _shape(32, 4096, 32, max_positions=131072, positions="rotary"),
        "13b": _shape(40, 5120, 40, max_positions=131072, positions="rotary"),
        "30b": _shape(64, 6144, 64, max_positions=131072, positions="rotary"),
    }),
    "llama": MappingProxyType({
        "tiny": _shape(2, 32, 4, num_kv_heads=2, mlp_dim=64, vocab_size=64),
        "small": _shape(4, 128, 4, num_kv_heads=2, mlp_dim=384, vocab_size=256),
        "medium": _shape(8, 256, 8, num_kv_heads=4, mlp_dim=704, vocab_size=256),
        "125m": _shape(12, 768, 12, mlp_dim=2048, tied=True),
        "350m": _shape(24, 1024, 16, mlp_dim=2816, tied=True),
        "1.3b": _shape(24, 2048, 16, mlp_dim=5504, tied=True),
        "2.7b": _shape(32, 2560, 32, mlp_dim=6912),
        "7b": _shape(32, 4096, 32, mlp_dim=11008),
        "8b": _shape(
            32, 4096, 32, num_kv_heads=8, mlp_dim=14336, vocab_size=128256, rope_theta=500000.0
        ),
        "13b": _shape(40, 5120, 40, mlp_dim=13824),
        "30b": _shape(64, 6144, 64, mlp_dim=16384),
    }),
})
"""Family -> preset -> fields of `build_stage`."""


def preset_fields(family: str, name: str) -> dict[str, int | float | bool | str]:
    """Fields of a named model shape.

    Args:
      family: a key of `PRESETS`.
      name: a key of `PRESETS[family]`.

    Returns:
      Keyword arguments of `build_stage`, a fresh dict.

    Raises:
      ValueError: the family or the preset is unknown; the nearest name is suggested.

    Example:
      >>> preset_fields("llama", "7b")["model_dim"]
      4096
    """
    return dict(nearest(nearest(PRESETS, family, what="family"), name, what=f"{family} preset"))


def nearest(table: Mapping, name: str, *, what: str):
    """`table[name]`, or a ValueError that suggests the nearest key."""
    if name in table:
        return table[name]
    close = get_close_matches(str(name), table, n=1, cutoff=0.3)
    cure = f"did you mean {close[0]!r}? There are" if close else "use one of"
    raise ValueError(f"unknown {what} {name!r}; {cure} {', '.join(table)}")
