r"""Which characters of a rendered conversation the assistant wrote, and which tokens they are.

A template that has blocks `{% generation %}` says so itself. Otherwise a turn is what the
conversation up to its end has more than the prompt for it:

    prompt    <|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n
    turn                                                          hello<|im_end|>\n

which holds only where the prompt begins the longer text, and that text the whole conversation.
Where a template writes earlier turns otherwise once later ones follow (it leaves out their
reasoning, say), the conversation is refused: no mask would be that of what the model reads.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from seq1f1b_jax.data.tokenizer.base import Tokenizer
from seq1f1b_jax.data.tokenizer.chat.template import ChatTemplate, Message, Refused

ASSISTANT = "assistant"
PROBE = "An answer."


class Turns(NamedTuple):
    """A conversation as text.

    Attributes:
      text: what the model reads.
      spans: first and last character, exclusive, of each part that the assistant wrote.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


def find_turns(template: ChatTemplate, messages: Sequence[Message]) -> Turns:
    """Render a conversation, and find the assistant's turns in it.

    Raises:
      Refused: it has none, or the template does not tell them apart.

    Example:
      >>> from datetime import datetime
      >>> from seq1f1b_jax.data.tokenizer.chat.template import ChatTemplate
      >>> from seq1f1b_jax.data.tokenizer.chat.turns import find_turns
      >>> text = (
      ...     "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }};{% endfor %}"
      ...     "{% if add_generation_prompt %}[a]{% endif %}"
      ... )
      >>> template = ChatTemplate(text, tokens={}, now=datetime(2000, 1, 1))
      >>> messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "oh"}]
      >>> find_turns(template, messages)
      Turns(text='[u]hi;[a]oh;', spans=((9, 12),))
    """
    turns = [turn for turn, message in enumerate(messages) if message["role"] == ASSISTANT]
    if not turns:
        raise Refused("it has no turn of the assistant, so no token would count")
    whole = template.render(messages)
    spans = whole.marked if template.marks else tuple(_by_prefix(template, messages, turns, whole))
    return Turns(whole.text, spans)


def _by_prefix(template, messages, turns, whole) -> Iterator[tuple[int, int]]:
    for turn in turns:
        before = template.render(messages[:turn], prompt=True).text
        last = turn + 1 == len(messages)
        after = whole.text if last else template.render(messages[: turn + 1]).text
        if not after.startswith(before):
            raise Refused(
                f"the chat template writes turn {turn} otherwise than its prompt begins it, so "
                "what the assistant wrote is unknown"
            )
        if not whole.text.startswith(after):
            raise Refused(
                f"the chat template writes turn {turn}, or one before it, otherwise once later "
                "turns follow, so what the assistant wrote is unknown"
            )
        yield len(before), len(after)


def tokens_within(
    spans: Sequence[tuple[int, int]], characters: Sequence[tuple[int, int]]
) -> Bool[np.ndarray, " num_tokens"]:
    """Which tokens have a character inside one of the spans.

    Args:
      spans: first and last character, exclusive; ascending, none overlaps another.
      characters: the same of each token.

    Example:
      >>> from seq1f1b_jax.data.tokenizer.chat.turns import tokens_within
      >>> tokens_within([(2, 4)], [(0, 2), (2, 3), (3, 5), (5, 6)]).tolist()
      [False, True, True, False]
    """
    if not spans or not characters:
        return np.zeros(len(characters), bool)
    first, last = np.array([*spans, (np.iinfo(np.int64).max,) * 2]).T
    begins, ends = np.array(characters).T
    candidate = np.searchsorted(last, begins, side="right")  # the first span that ends after it
    return first[candidate] < np.maximum(ends, begins + 1)


def end_of_turn(template: ChatTemplate, tokenizer: Tokenizer) -> int | None:
    """The special token that the template writes after an answer; None: it writes none.

    A model that was trained on the template ends its answers with it, whatever its files say.
    """
    question = {"role": "user", "content": "Q"}
    answer = {"role": ASSISTANT, "content": PROBE}
    try:
        before = template.render([question], prompt=True).text
        after = template.render([question, answer]).text
    except Refused:
        return None
    if not after.startswith(before):
        return None
    rest = after[len(before) :].partition(PROBE)[2]
    ids, characters = tokenizer.encode_spans(rest)
    is_special = ids and rest[slice(*characters[0])] in tokenizer.special_names
    return ids[0] if is_special else None
