"""A kernel that fails on the device ends no run: it goes on with `xla_blockwise`, and says so."""

import pytest

from seq1f1b_jax.ops.attention import PLAIN, choose, cudnn
from seq1f1b_jax.ops.attention.parts import Kernel, make_backend
from tests.ops.test_parts import STAND_IN
from tests.run.tiny import command_line, run


def doubled(*inputs, **options):
    out, lse = STAND_IN.forward(*inputs, **options)
    return 2 * out, lse


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (cudnn.KERNEL, "failed its check: "),  # a CPU has no such kernel
        (Kernel(doubled, STAND_IN.backward), "failed its check: out differs from xla_dense by 1"),
    ],
    ids=["raises", "computes wrongly"],
)
def test_the_run_goes_on(kernel, reason, source, tmp_path, monkeypatch):
    real = choose.get_backend

    def get_backend(name, *, scoring=PLAIN, **options):
        if name == "cudnn":
            return make_backend(name, kernel, scoring=scoring)
        return real(name, scoring=scoring, **options)

    monkeypatch.setattr(cudnn, "reason_against", lambda **_: None)
    monkeypatch.setattr(choose, "get_backend", get_backend)
    choose.check.cache_clear()
    one = dict(mesh__pipe=1, schedule__num_chunks=1, train__num_steps=1)
    outcome = run(*command_line(tmp_path / "run", source, **one))
    choose.check.cache_clear()
    assert outcome.status == 0, outcome.err
    said = [line for line in outcome.out.splitlines() if line.startswith("compute ")]
    assert len(said) == 1 and f"xla_blockwise (cuDNN's attention {reason}" in said[0]


def test_cudnn_on_a_cpu_is_one_line(source, tmp_path):
    outcome = run(*command_line(tmp_path / "run", source, executor__attention="cudnn"))
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "attention='cudnn': cuDNN needs an NVIDIA GPU" in outcome.err
