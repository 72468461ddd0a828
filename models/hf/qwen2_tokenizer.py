"""With a config of type `qwen2`, transformers 5 rebuilds any tokenizer as Qwen2's.

Whatever class tokenizer_config.json names, it takes vocabulary, merges and added tokens out of
tokenizer.json and applies Qwen2's pattern and normalisation, where other tokenizers split words
differently. So a model with another tokenizer is written as the Llama that computes the same, with
a zero bias on attention's output projection.
"""

from collections.abc import Mapping
from typing import Any

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"  # added where it is missing
_PLAIN = {
    "type": ("BPE",), "dropout": (None,), "unk_token": (None,),
    "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, ""),
    "byte_fallback": (False, None), "ignore_merges": (False, None),
}


def is_rebuilt_alike(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer splits texts alike after it is rebuilt as Qwen2's.

    Args:
      tokenizer: the content of tokenizer.json.

    Example:
      >>> from seq1f1b_jax.models.hf.qwen2_tokenizer import is_rebuilt_alike
      >>> is_rebuilt_alike({"model": {"type": "BPE"}, "normalizer": None})
      False
    """
    model = tokenizer.get("model") or {}
    added = {entry.get("content") for entry in tokenizer.get("added_tokens") or ()}
    cutters = (tokenizer.get("pre_tokenizer") or {}).get("pretokenizers") or ()
    return (
        all(model.get(name) in values for name, values in _PLAIN.items())
        and tokenizer.get("normalizer") == {"type": "NFC"}
        and [_cutter(one) for one in cutters] == [PATTERN, "bytes"]
        and END_OF_TEXT in added
    )


def _cutter(settings: Mapping[str, Any]) -> str | None:
    """The pattern, or `bytes`, or None for any other."""
    kind, pattern = settings.get("type"), settings.get("pattern")
    if kind == "Split" and settings.get("behavior") == "Isolated" and not settings.get("invert"):
        return pattern.get("Regex") if isinstance(pattern, dict) else None
    plain = not settings.get("add_prefix_space") and settings.get("use_regex") is False
    return "bytes" if kind == "ByteLevel" and plain else None
