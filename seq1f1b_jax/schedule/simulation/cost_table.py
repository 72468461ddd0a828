"""The seconds of actions as they were measured, in a file with what they were measured for.

A table holds the seconds of actions of one stage by chunk length and offset, for the conditions
that they were measured under. `python -m seq1f1b_jax.plan profile` makes it; `measured.py` makes
costs of it.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seq1f1b_jax.paths import one_line
from seq1f1b_jax.schedule.actions import Op

FORMAT, VERSION = "seq1f1b_jax measured costs", 1
PROFILE = "python -m seq1f1b_jax.plan profile"
"""The command that measures."""
NOTED = ("jax",)
"""Conditions that may differ: reported, not refused."""
REACH = 2
"""A chunk may be so many times shorter or longer than all that were measured."""


class Row(NamedTuple):
    """Seconds of one action on one chunk.

    Attributes:
      op: `F`, `B`, `I` or `W`.
      length: tokens of the chunk.
      offset: its first token.
      layers: of the layers of a stage between others.
      embedding: that the first stage takes beside them.
      head: that the last stage takes beside them.
      spread: of the layers, the middle half of the timings over their median.
    """

    op: str
    length: int
    offset: int
    layers: float
    embedding: float
    head: float
    spread: float


@dataclass(frozen=True)
class CostTable:
    """Measured seconds of actions, and what they were measured for.

    Attributes:
      num_layers: layers of the stage that was measured.
      seq_len: tokens of the sequences that the chunks were slices of.
      conditions: by name, what the seconds depend on: sizes of the model, sequences of a
        microbatch, recomputation, attention, dtype, device.
      rows: one per operation and chunk.

    Raises:
      ValueError: no rows, or sizes and seconds that nothing can have.

    Example:
      >>> rows = [Row("F", n, 0, n / 1e6, 0.0, 0.0, 0.01) for n in (128, 256)]
      >>> table = CostTable(2, 1024, {"device": "cpu, 2 cores"}, tuple(rows))
      >>> CostTable.from_text(table.text(), "costs.json") == table
      True
    """

    num_layers: int
    seq_len: int
    conditions: Mapping[str, Any]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Refuse what was never measured."""
        if not self.rows or self.num_layers < 1 or self.seq_len < 1:
            raise ValueError(
                f"{len(self.rows)} rows of num_layers={self.num_layers} and seq_len={self.seq_len} "
                f"are no measurement; measure with {PROFILE}"
            )
        for row in self.rows:
            inside = row.length >= 1 and 0 <= row.offset <= self.seq_len - row.length
            timed = all(map(math.isfinite, row[3:])) and row.layers > 0
            if row.op not in list(Op) or not inside or not timed:
                raise ValueError(f"{row} is no measurement; measure with {PROFILE}")

    @property
    def fingerprint(self) -> str:
        """Twelve letters that differ where the content does."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:12]

    @property
    def ops(self) -> tuple[Op, ...]:
        """Operations that were measured."""
        return tuple(op for op in Op if any(row.op == op for row in self.rows))

    @property
    def lengths(self) -> tuple[int, int]:
        """The shortest and the longest chunk that seconds are known for."""
        measured = [row.length for row in self.rows]
        return -(-min(measured) // REACH), REACH * max(measured)

    def of(self, op: Op) -> tuple[Row, ...]:
        """Its rows."""
        return tuple(row for row in self.rows if row.op == op)

    def text(self) -> str:
        """As JSON, one row a line."""
        head = {
            "format": FORMAT, "version": VERSION, "num_layers": self.num_layers,
            "seq_len": self.seq_len, "conditions": dict(self.conditions),
        }  # fmt: skip
        rows = ",\n  ".join(json.dumps(row._asdict()) for row in self.rows)
        return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'

    @classmethod
    def from_text(cls, text: str, name: str) -> "CostTable":
        """Read what `text` wrote.

        Args:
          text: JSON.
          name: of the file, for messages.

        Raises:
          ValueError: it is something else, or of another version.
        """
        cure = f"write a new one with {PROFILE} --to {one_line(name)}"
        try:
            tree = json.loads(text)
            if tree["format"] != FORMAT:
                raise KeyError("format")
            if tree["version"] != VERSION:
                raise ValueError(
                    f"{one_line(name)} is version {tree['version']} of measured costs, this "
                    f"program reads version {VERSION}; {cure}"
                )
            rows = tuple(Row(**row) for row in tree["rows"])
            return cls(tree["num_layers"], tree["seq_len"], dict(tree["conditions"]), rows)
        except json.JSONDecodeError as error:
            reason = f"line {error.lineno} is no JSON"
        except (KeyError, TypeError) as error:
            reason = f"{type(error).__name__} {error}"
        raise ValueError(f"{one_line(name)} holds no measured costs ({one_line(reason)}); {cure}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all."""
        path = Path(path)
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(self.text(), encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "CostTable":
        """Read a file that `save` wrote.

        Raises:
          ValueError: it holds something else.
          OSError: it cannot be read.
        """
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        return cls.from_text(text, os.fspath(path))

    def differences(self, conditions: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """By name, what was measured under another condition: measured, wanted."""
        names = dict.fromkeys([*self.conditions, *conditions])
        pairs = {name: (self.conditions.get(name), conditions.get(name)) for name in names}
        return {name: (mine, theirs) for name, (mine, theirs) in pairs.items() if mine != theirs}

    def check(self, conditions: Mapping[str, Any], *, name: str) -> tuple[str, ...]:
        """Refuse a run that the seconds were not measured for.

        Args:
          conditions: of the run.
          name: of the file, for messages.

        Returns:
          Notes on differences that are allowed.

        Raises:
          ValueError: what differs.

        Example:
          >>> rows = (Row("F", 128, 0, 0.001, 0.0, 0.0, 0.01),)
          >>> table = CostTable(2, 1024, {"recompute": "none"}, rows)
          >>> table.check({"recompute": "none"}, name="costs.json")
          ()
          >>> table.differences({"recompute": "full"})
          {'recompute': ('none', 'full')}
        """
        found = self.differences(conditions)
        notes = tuple(
            f"{one_line(name)} was measured with {key} {mine}, this is {theirs}"
            for key, (mine, theirs) in found.items()
            if key in NOTED
        )
        wrong = {key: both for key, both in found.items() if key not in NOTED}
        if not wrong:
            return notes
        mine, theirs = (
            ", ".join(f"{key}={both[side]}" for key, both in wrong.items()) for side in (0, 1)
        )
        raise ValueError(
            f"{one_line(name)} was measured with {mine}, and this run has {theirs}; profile it "
            f"again: {PROFILE} --to {one_line(name)} and the settings of the run"
        )
