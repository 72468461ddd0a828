"""Values of a config.json or of a GGUF header, checked one by one as they are looked up."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.config import UserError

_MISSING: Any = object()


@dataclass(frozen=True)
class CheckedValues:
    """Named values, each checked when it is looked up.

    Attributes:
      values: the names and values, of any type.
      where: the file, and the part of it, named in messages.
    """

    values: Mapping[str, Any]
    where: str

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def get(self, name: str, default: Any = None) -> Any:
        """The value as it is, `default` if absent."""
        return self.values.get(name, default)

    def count(self, name: str, default: int = _MISSING, *, least: int = 1) -> int:
        """An integer of at least `least`; null counts as absent."""
        value = self._present(name, default)
        if type(value) is not int or value < least:
            raise UserError(
                f"{self.where}: {name}={short(value)} is not an integer of {least} or more"
            )
        return value

    def number(self, name: str, default: float = _MISSING) -> float:
        """A positive finite number; null counts as absent."""
        value = self._present(name, default)
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            raise UserError(f"{self.where}: {name}={short(value)} is not a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false; null counts as absent."""
        value = self._present(name, default)
        if type(value) is not bool:
            raise UserError(f"{self.where}: {name}={short(value)} is neither true nor false")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of strings; absent or null is the empty one."""
        value = self._present(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise UserError(f"{self.where}: {name}={short(value)} is not a list of strings")
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of positive finite numbers."""
        value = self._present(name, _MISSING)
        if not isinstance(value, list):
            raise UserError(f"{self.where}: {name}={short(value)} is not a list of numbers")
        one = CheckedValues({f"{name}[{i}]": entry for i, entry in enumerate(value)}, self.where)
        return [one.number(key) for key in one]

    def mapping(self, name: str) -> Mapping[str, Any]:
        """An object; absent or null is the empty one."""
        value = self._present(name, {})
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: {name}={short(value)} is not an object")
        return value

    def refuse(self, allowed: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
        """Raise one error that names every setting whose value is not among the allowed ones.

        Args:
          allowed: name -> (values, the reason and the cure); an absent setting is allowed.
        """
        wrong = [
            f"{name}={short(self.get(name))} ({why})"
            for name, (values, why) in allowed.items()
            if name in self and self.get(name) not in values
        ]
        if wrong:
            raise UserError(f"{self.where} is not supported: {'; '.join(wrong)}")

    def renamed(self, names: Mapping[str, str]) -> "CheckedValues":
        """The same with values that are under their second names moved to their first ones.

        Args:
          names: second name -> first name.

        Raises:
          UserError: both names are present, and the values differ.
        """
        values = dict(self.values)
        for second, first in names.items():
            other = values.pop(second, None)
            if other is None:
                continue
            if values.get(first) not in (None, other):
                raise UserError(
                    f"{self.where}: {first}={short(values[first])} and {second}={short(other)} "
                    "are one setting and differ; correct the one that is wrong"
                )
            values[first] = other
        return CheckedValues(values, self.where)

    def _present(self, name, default):
        value = self.values.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            raise UserError(f"{self.where}: {name} is missing; get the whole checkpoint again")
        return default


def short(value: Any) -> str:
    """A value as shown in a message, a long one truncated."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
