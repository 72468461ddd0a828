"""Exit statuses of a process, for its launcher, which starts again what a restart can cure."""

USER_ERROR = 2
"""Bad input or bad luck that one line explains; the same command fails again."""

STALLED = 75
"""The watchdog ended a step that took far too long (`EX_TEMPFAIL` of sysexits)."""

LOST_PEER = 76
"""Another process of the run died or did not come, and this one could not go on."""

STOPPED = 77
"""Asked to stop, saved, not complete: for a scheduler that sets `distributed.stopped_status`, which
is 0 for a user at a terminal."""

MENDED_BY_RESTART = frozenset((STALLED, LOST_PEER))
"""Besides deaths by a signal."""
