"""Processes are joined by collectives, and a failing one ends all and says why."""

import sys
import time

import pytest

from benchmarks.common.processes import ProcessError, one_core_each, run_processes

HERE = "tests.benchmarks.test_processes"


def exchange(scale: float):
    """Swap and add up one number per process (runs inside each of them)."""
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax.sharding import PartitionSpec as Spec

    mesh = jax.make_mesh((2,), ("pipe",), axis_types=(jax.sharding.AxisType.Auto,))

    def body():
        own = scale * (1.0 + lax.axis_index("pipe"))[None]
        return jnp.stack([lax.ppermute(own, "pipe", [(0, 1), (1, 0)]), lax.psum(own, "pipe")])

    shared = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(), out_specs=Spec(None, "pipe")))()
    mine = shared.addressable_shards[0].data
    return {"rank": jax.process_index(), "devices": jax.device_count(), "values": mine.tolist()}


def fail_in_second():
    """Process 1 fails at once while process 0 would sleep for long."""
    import jax

    if jax.process_index() == 1:
        raise ValueError("stage 17 is missing")
    time.sleep(300)


def sleep(seconds: float):
    """Do nothing for a while."""
    time.sleep(seconds)


def exit_with(status: int):
    """Leave without a word."""
    import os

    os._exit(status)


def test_two_processes_swap_and_add():
    results = run_processes(f"{HERE}:exchange", {"scale": 2.0}, num_processes=2)
    assert results == [
        {"rank": 0, "devices": 2, "values": [[4.0], [6.0]]},
        {"rank": 1, "devices": 2, "values": [[2.0], [6.0]]},
    ]


def test_a_failing_process_ends_all_and_shows_its_last_lines():
    start = time.monotonic()
    with pytest.raises(ProcessError, match="process 1 of 2 ended with status 1") as raised:
        run_processes(f"{HERE}:fail_in_second", num_processes=2)
    assert "ValueError: stage 17 is missing" in str(raised.value)
    assert time.monotonic() - start < 200  # the other one was not waited for


def test_a_status_is_reported():
    with pytest.raises(ProcessError, match="process 0 of 1 ended with status 7"):
        run_processes(f"{HERE}:exit_with", {"status": 7}, num_processes=1)


def test_the_time_limit_names_who_still_ran():
    with pytest.raises(ProcessError, match=r"processes \[0\] of 1 .* timeout_seconds=0.5"):
        run_processes(f"{HERE}:sleep", {"seconds": 300}, num_processes=1, timeout_seconds=0.5)


def test_cores_are_distinct_or_not_given():
    assert one_core_each(100_000) == ()
    assert len(set(one_core_each(1))) == (sys.platform == "linux")
