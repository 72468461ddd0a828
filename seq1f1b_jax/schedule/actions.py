"""One operation on one unit: the atom of every schedule, and its text form."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

_TEXT = re.compile(r"([FBIW])(\d{1,9})\.(\d{1,9})(?:@(\d{1,9}))?")


class Op(StrEnum):
    """What a rank does with a unit.

    `F` is the forward, `B` the backward. A backward may also be done in two halves: `I` gives the
    gradient by the stage's input, which the stage before waits for, and `W` the gradients of the
    weights, for which nothing waits.
    """

    F = "F"
    B = "B"
    I = "I"  # noqa: E741  the letter of the zero-bubble schedules
    W = "W"


@dataclass(frozen=True, slots=True)
class Action:
    """One operation on one unit by the rank that holds `stage`.

    Attributes:
      op: forward, backward, or one of the backward's halves.
      stage: index of the group of layers it runs through, along the whole model.
      microbatch: index of the sequence batch within the step.
      chunk: index of the slice of the sequence.

    Example:
      >>> from seq1f1b_jax.schedule import Action, Op
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

    @property
    def event(self) -> "Action":
        """What others wait for: an `I` sends the same gradient as a `B`, so it counts as one."""
        return replace(self, op=Op.B) if self.op is Op.I else self

    def text(self, rank: int) -> str:
        """Write the action as in the row of `rank`.

        Args:
          rank: index of the row. A stage of another number is appended as `@stage`: with
            several stages per rank, all but the first.

        Returns:
          `F2.1` for the forward of chunk 1 of microbatch 2.
        """
        elsewhere = "" if self.stage == rank else f"@{self.stage}"
        return f"{self.op}{self.microbatch}.{self.chunk}{elsewhere}"

    @classmethod
    def parse(cls, text: str, rank: int) -> "Action":
        """Read what `text` wrote.

        Args:
          text: `F2.1`, or `F2.1@3` for a stage of another number than the rank's.
          rank: index of the row that holds the text.

        Raises:
          ValueError: the text is not an action.

        Example:
          >>> from seq1f1b_jax.schedule import Action
          >>> Action.parse("B0.3", rank=1)
          Action(op=<Op.B: 'B'>, stage=1, microbatch=0, chunk=3)
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"action {text!r} on rank {rank} is not an operation (F, B, I or W) followed by"
                " microbatch.chunk; write it like F2.1"
            )
        op, microbatch, chunk, stage = match.groups()
        return cls(Op(op), rank if stage is None else int(stage), int(microbatch), int(chunk))
