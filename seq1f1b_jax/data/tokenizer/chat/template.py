"""A chat template, rendered in Jinja's sandbox with what transformers offers to templates.

Templates come with models, so they are code of others: the sandbox has no files, no imports, and
nothing that a template changes outlives a rendering.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer.base import Chat
from seq1f1b_jax.data.tokenizer.chat.found import DEFAULT

Message = Mapping[str, Any]
"""`{"role": ..., "content": ...}`, and what else a template reads."""
# what code of a template can raise besides Jinja's own errors
FAULTS = (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
          RecursionError)  # fmt: skip


class Refused(UserError):
    """A conversation that the template does not render, or not such that its turns are certain."""


class Rendered(NamedTuple):
    """A conversation as text.

    Attributes:
      text: what the model reads.
      marked: first and last character, exclusive, of each block `{% generation %}`.
    """

    text: str
    marked: tuple[tuple[int, int], ...]


class ChatTemplate:
    """Renders conversations.

    Args:
      text: the template.
      tokens: special tokens by name, which the template sees as variables.
      now: what it is told when it asks for the time.

    Attributes:
      marks: whether it has blocks `{% generation %}` around what the model writes.

    Raises:
      UserError: it is no template.

    Example:
      >>> from datetime import datetime
      >>> from seq1f1b_jax.data.tokenizer.chat.template import ChatTemplate
      >>> text = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
      >>> template = ChatTemplate(text, tokens={"eos_token": "</s>"}, now=datetime(2000, 1, 1))
      >>> template.render([{"role": "user", "content": "hi"}]).text
      'user: hi</s>'
    """

    def __init__(self, text: str, *, tokens: Mapping[str, str], now: datetime):
        self._environment = environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise_exception, strftime_now=now.strftime)
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(text)
            buffered = _has_buffered_generation(environment.parse(text))
        except (TemplateError, RecursionError) as error:
            raise UserError(
                f"the chat template cannot be read ({_one_line(error)}); get it again, or give "
                "another one"
            ) from error
        if buffered:
            raise UserError(
                "the chat template has a {% generation %} inside a macro, a set, a call, a filter "
                "or another one, which are written later, so its place in the text is unknown; "
                "give another template"
            )
        self.marks: bool = _generation_of(environment).used

    def render(self, messages: Sequence[Message], *, prompt: bool = False) -> Rendered:
        """A conversation as text.

        Args:
          messages: its turns. Fields that are null are absent to the template, as in transformers.
          prompt: whether the beginning of the assistant's next turn is appended.

        Raises:
          Refused: the template refuses the messages, or fails on them.
        """
        given = [{k: v for k, v in message.items() if v is not None} for message in messages]
        generation = _generation_of(self._environment)
        generation.begin()
        try:
            for block in self._template.generate(
                messages=given, tools=None, documents=None, add_generation_prompt=prompt,
                **self._tokens,
            ):
                generation.add(block)
        except FAULTS as error:
            raise Refused(f"the chat template does not render it: {_one_line(error)}") from error
        return generation.finish()


def load_template(chat: Chat, *, now: datetime, name: str = DEFAULT) -> ChatTemplate:
    """A template of a tokenizer.

    Raises:
      UserError: there is none of that name.
    """
    if name not in chat.templates:
        known = ", ".join(chat.templates) or "none"
        raise UserError(f"the tokenizer has no chat template {name!r}; it has: {known}")
    return ChatTemplate(chat.templates[name], tokens=chat.tokens, now=now)


class _Generation(Extension):
    """Records where blocks `{% generation %} ... {% endgeneration %}` stand in a rendering."""

    tags = {"generation"}

    def __init__(self, environment: Any):
        super().__init__(environment)
        self.used = False
        self.begin()

    def begin(self) -> None:
        self._blocks: list[str] = []
        self._length, self._found = 0, []

    def add(self, block: str) -> None:
        self._blocks.append(block)
        self._length += len(block)

    def finish(self) -> Rendered:
        return Rendered("".join(self._blocks), tuple(self._found))

    def parse(self, parser: Parser) -> nodes.Node:
        self.used = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

    def _write(self, caller: Any) -> str:
        text = caller()
        self._found.append((self._length, self._length + len(text)))
        return text


def _has_buffered_generation(template: nodes.Template) -> bool:
    """Whether a block `{% generation %}` stands in a node whose text is written only at its end."""

    def marks(node: nodes.Node) -> bool:
        called = node.call.node if isinstance(node, nodes.CallBlock) else None
        return getattr(called, "identifier", None) == _Generation.identifier

    buffers = (nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.For)
    around = [
        node for node in template.find_all(buffers)
        if not isinstance(node, nodes.For) or node.recursive
    ]
    return any(marks(inner) for node in around for inner in node.find_all(nodes.CallBlock))


def _generation_of(environment: Any) -> _Generation:
    return environment.extensions[_Generation.identifier]


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes, which Jinja's own filter writes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
