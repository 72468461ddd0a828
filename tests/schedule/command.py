"""Running the command in tests, and reading what it printed."""

from seq1f1b_jax.explore.__main__ import main
from seq1f1b_jax.schedule import SCHEDULES


def run(capsys, *words):
    """What the command prints where it succeeds."""
    status = main(list(words))
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return captured.out


def row(out, start):
    """The words of the first line that starts so, without the start."""
    line = next(line for line in out.splitlines() if line.startswith(start))
    return [word.strip() for word in line.removeprefix(start).split("  ") if word.strip()]


def sizes_of(name, *, chunks="3"):
    chunks = "1" if SCHEDULES[name].chunked_name else chunks
    return [name, "--ranks", "3", "--microbatches", "4", "--chunks", chunks]
