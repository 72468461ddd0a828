"""Training a byte-level BPE."""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer.from_json import JsonTokenizer

END_OF_TEXT = "<|endoftext|>"
MIN_VOCAB_SIZE = 257  # all bytes and the end of text
MAX_VOCAB_SIZE = 1 << 20


def check_vocab_size(vocab_size: int) -> None:
    """Refuse fewer tokens than bytes, and unreasonably many.

    Raises:
      UserError: it is out of range.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"a vocabulary of {vocab_size} tokens; it has {MIN_VOCAB_SIZE} at least, for 256 bytes "
            f"and the end of text, and {MAX_VOCAB_SIZE} at most"
        )


def train_on_texts(texts: Iterable[str], vocab_size: int) -> JsonTokenizer:
    """Train on a stream of texts.

    Args:
      texts: text to count words in.
      vocab_size: size of the vocabulary; smaller if the texts have nothing more to merge.

    Raises:
      UserError: fewer tokens than bytes, or unreasonably many.

    Example:
      >>> from seq1f1b_jax.data.tokenizer.train import train_on_texts
      >>> len(train_on_texts(["to be or not to be"] * 9, 260).encode("to be"))
      2
    """
    check_vocab_size(vocab_size)
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    inner.train_from_iterator(texts, trainer)
    return JsonTokenizer(inner, eos=inner.token_to_id(END_OF_TEXT))
