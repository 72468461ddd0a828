"""Special tokens that are spelled in texts: counted, and kept as such only where asked for."""

import re
from collections.abc import Sequence

TEXT, KEEP = "text", "keep"


def spelling_pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    """What finds the spellings of special tokens, the longest first; None: there are no tokens.

    Example:
      >>> from seq1f1b_jax.data.prepare.specials import spelling_pattern
      >>> len(spelling_pattern(["<s>", "</s>"]).findall("<s> not <<s>, </s>"))
      3
    """
    longest_first = sorted(filter(None, names), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def count_spellings(pattern: re.Pattern[str] | None, text: str) -> int:
    """How many there are in a text; the text is not copied."""
    return sum(1 for _ in pattern.finditer(text)) if pattern else 0
