"""Tiny GGUF files with a tokenizer in them."""

from gguf import GGUFWriter

from seq1f1b_jax.data.tokenizer.from_json import BYTE_OF

LETTERS = list(BYTE_OF)
CONTROL = 3


def write_gguf(path, entries):
    """A GGUF with these entries `tokenizer.ggml.*` and no tensors."""
    writer = GGUFWriter(str(path), "llama")
    add_tokenizer(writer, entries)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def add_tokenizer(writer, entries):
    """Add these entries as `tokenizer.ggml.*`."""
    for name, value in entries.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)


def byte_level(**changes):
    """All bytes, three merges, two special tokens."""
    tokens = [*LETTERS, "Ġt", "he", "Ġthe", "12", "<|end|>", "<|start|>"]
    entries = {
        "model": "gpt2", "pre": "gpt-2", "tokens": tokens,
        "token_type": [1] * (len(tokens) - 2) + [CONTROL] * 2,
        "merges": ["Ġ t", "h e", "Ġt he", "1 2"], "eos_token_id": len(tokens) - 2,
        "bos_token_id": len(tokens) - 1,
    }
    return {name: value for name, value in (entries | changes).items() if value is not None}


def sentencepiece(**changes):
    """Control tokens, all bytes as <0x..>, a few letters and words with scores."""
    words = ["▁", "t", "h", "e", "▁t", "he", "▁the", "th"]
    scores = [-1e9, -1e9, -1e9, -1e9, -2.0, -1.0, -4.0, -3.0]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    entries = {
        "model": "llama", "tokens": tokens, "scores": [0.0] * 259 + scores,
        "token_type": [2, CONTROL, CONTROL] + [6] * 256 + [1] * len(words),
        "eos_token_id": 2, "bos_token_id": 1, "unknown_token_id": 0,
    }
    return {name: value for name, value in (entries | changes).items() if value is not None}
