"""A run compiles its step once, and its evaluation once, however often both run."""

import re
from collections import Counter
from contextlib import contextmanager

import jax

from tests.run.tiny import command_line, copy_until, held_out_losses, run

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations():
    """Number of compilations by name of the compiled function."""
    names = Counter()

    def listen(event, duration, **details):
        if event == COMPILED:
            names[details.get("fun_name")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_the_count_sees_a_second_compilation():
    double = jax.jit(lambda x: 2 * x)
    with compilations() as names:
        double(jax.numpy.zeros(3))
        once = sum(names.values())
        double(jax.numpy.zeros(4))
    assert sum(names.values()) > once > 0


def test_one_compilation_per_run(source, tmp_path):
    with compilations() as names:
        outcome = run(*command_line(tmp_path / "run", source, train__eval_every=2))
    assert outcome.status == 0 and len(held_out_losses(tmp_path / "run")) == 3
    assert names["jit(train_step)"] == 1
    assert names["jit(token_losses)"] == 1
    told = [line for line in outcome.out.splitlines() if line.startswith("compiling")]
    assert [re.sub(r"\d.*", "", line) for line in told] == [
        "compiling the training step ...", "compiling the training step took ",
        "compiling the evaluation ...", "compiling the evaluation took ",
    ]


def test_one_compilation_in_a_run_that_continues(finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 2)
    with compilations() as names:
        assert run(*command_line(folder, source, train__eval_every=1)).status == 0
    assert (names["jit(train_step)"], names["jit(token_losses)"]) == (1, 1)
