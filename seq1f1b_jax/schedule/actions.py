"""One operation on one unit: the atom of every schedule, and its text form."""

import re
from dataclasses import dataclass
from enum import StrEnum

_TEXT = re.compile(r"([FB])(\d+)\.(\d+)(?:@(\d+))?")


class Op(StrEnum):
    """What a rank does with a unit: `F` forward, `B` backward."""

    F = "F"
    B = "B"


@dataclass(frozen=True, slots=True)
class Action:
    """One operation on one unit by the rank that holds `stage`.

    Attributes:
      op: forward or backward.
      stage: index of the group of layers it runs through.
      microbatch: index of the sequence batch within the step.
      chunk: index of the slice of the sequence.

    Example:
      >>> Action(Op.F, stage=0, microbatch=2, chunk=1).text(rank=0)
      'F2.1'
    """

    op: Op
    stage: int
    microbatch: int
    chunk: int

    @property
    def unit(self) -> tuple[int, int]:
        """(microbatch, chunk): what the action works on."""
        return self.microbatch, self.chunk

    def text(self, rank: int) -> str:
        """Write the action as it stands in the row of `rank`.

        Args:
          rank: index of the row. A stage that is not the rank's own is appended as `@stage`.

        Returns:
          `F2.1` for the forward of chunk 1 of microbatch 2.
        """
        elsewhere = "" if self.stage == rank else f"@{self.stage}"
        return f"{self.op}{self.microbatch}.{self.chunk}{elsewhere}"

    @classmethod
    def parse(cls, text: str, rank: int) -> "Action":
        """Read what `text` wrote.

        Args:
          text: `F2.1`, or `F2.1@3` for a stage that is not the rank's own.
          rank: index of the row that the text stands in.

        Raises:
          ValueError: the text is not an action.

        Example:
          >>> Action.parse("B0.3", rank=1)
          Action(op=<Op.B: 'B'>, stage=1, microbatch=0, chunk=3)
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"action {text!r} on rank {rank} is not an operation (F or B) followed by"
                " microbatch.chunk; write it like F2.1"
            )
        op, microbatch, chunk, stage = match.groups()
        return cls(Op(op), rank if stage is None else int(stage), int(microbatch), int(chunk))
