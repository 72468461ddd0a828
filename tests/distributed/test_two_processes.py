"""Two processes are one run: who prints and writes, and what another number of them makes of it."""

import pytest

from tests.run.tiny import checkpoint_steps, losses


@pytest.mark.slow
def test_one_speaks_for_both(by_two):
    folder, told, silent = by_two
    assert len(losses(folder)) == 6 and checkpoint_steps(folder) == [2, 4, 6]
    assert f"checkpoints and metrics are in {folder}" in told
    assert silent == ""
