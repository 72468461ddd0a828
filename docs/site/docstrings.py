"""Our docstrings as Griffe reads them: `Example:` is a section of code that runs."""

import re
from typing import Any

from griffe import Docstring, Extension, Object

EXAMPLE = re.compile(r"^([ \t]*)Example:$", re.MULTILINE)


class Examples(Extension):
    """Names the section as Griffe's parser knows it, so that it is shown as code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """See `griffe.Extension`."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
