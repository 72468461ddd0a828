"""One run of several processes: who they are, and what they agree on beside their devices' work."""

from seq1f1b_jax.distributed.group import ALONE, Group
from seq1f1b_jax.distributed.meeting import start
from seq1f1b_jax.distributed.output import one_voice
from seq1f1b_jax.distributed.processes import Processes, find_processes

__all__ = ["ALONE", "Group", "Processes", "find_processes", "one_voice", "start"]
