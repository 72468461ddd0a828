"""Attention by name, by `auto`, and after a check on the device that fails."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.ops.attention import (
    PLAIN,
    Heads,
    Scoring,
    choose,
    choose_backend,
    cudnn,
    for_documents,
)
from seq1f1b_jax.ops.attention.parts import Kernel, make_backend
from tests.ops.test_parts import STAND_IN

HEADS = Heads(num_heads=8, num_kv_heads=4, dim=16, dtype="bfloat16")


class H100:
    """A device that can only be compiled for."""

    platform, device_kind, compute_capability, process_index = "gpu", "H100", "9.0", 0


class V100(H100):
    compute_capability = "7.0"


@pytest.fixture
def as_cudnn(monkeypatch):
    """Puts a kernel in the place of cuDNN's, on the device that is here."""

    def put(kernel: Kernel) -> None:
        monkeypatch.setattr(cudnn, "reason_against", lambda **_: None)
        real = choose.get_backend

        def get_backend(name, *, scoring=PLAIN, **options):
            if name == "cudnn":
                return make_backend(name, kernel, scoring=scoring)
            return real(name, scoring=scoring, **options)

        monkeypatch.setattr(choose, "get_backend", get_backend)
        choose.check.cache_clear()

    check = choose.check
    yield put
    check.cache_clear()


def test_auto_on_a_cpu_is_blockwise_without_a_word():
    backend = choose_backend("auto", jax.devices(), HEADS)
    assert (backend.name, backend.why) == ("xla_blockwise", "")


def test_auto_on_a_gpu_is_cudnn():
    backend = choose_backend("auto", [H100()], HEADS)
    assert (backend.name, backend.why) == ("cudnn", "not run: no such device here")


@pytest.mark.parametrize(
    ("device", "change", "reason"),
    [
        (V100(), {}, "compute capability 8.0 .Ampere., and the GPU has 7.0"),
        (H100(), {"dtype": "float32"}, "bfloat16 or float16, not in float32"),
        (H100(), {"dim": 256}, "at most 128, and head_dim=256"),
        (H100(), {"dim": 20}, "a multiple of 8, at most 128, and head_dim=20"),
    ],
    ids=["old GPU", "float32", "wide heads", "odd heads"],
)
def test_what_cudnn_cannot_do_is_known_before_compiling(device, change, reason):
    heads = Heads(**{**vars(HEADS), **change})
    backend = choose_backend("auto", [device], heads)
    assert backend.name == "xla_blockwise"
    assert choose.cudnn.reason_against(
        dtype=heads.dtype, head_dim=heads.dim, platform="gpu",
        capability=device.compute_capability,
    ) == backend.why
    with pytest.raises(ValueError, match=f"attention='cudnn'.*{reason}.*use 'xla_blockwise'"):
        choose_backend("cudnn", [device], heads)


def test_an_unknown_name_is_refused_with_all_that_may_be_chosen():
    with pytest.raises(ValueError, match="attention='flash' is unknown; use one of auto, xla_den"):
        choose_backend("flash", jax.devices(), HEADS)


def test_a_named_cudnn_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="needs an NVIDIA GPU, and the program is for cpu"):
        choose_backend("cudnn", jax.devices(), HEADS)


@pytest.mark.parametrize("window", [None, 2000])
def test_a_kernel_that_computes_right_is_taken(as_cudnn, window):
    as_cudnn(STAND_IN)
    heads = replace(HEADS, scorings=(Scoring(window),), dtype="float32")
    backend = choose_backend("auto", jax.devices(), heads)
    assert (backend.name, backend.why) == ("cudnn", "checked against xla_dense on cpu")


def test_cudnn_without_cuda_raises_and_blockwise_is_taken(as_cudnn):
    as_cudnn(cudnn.KERNEL)
    backend = choose_backend("auto", jax.devices(), HEADS)
    assert backend.name == "xla_blockwise"


def wrong_values(q, k, v, **options):
    out, lse = STAND_IN.forward(q, k, v, **options)
    return out.at[0, 3, 0].mul(1.5), lse


def wrong_gradients(*inputs, **options):
    dq, dk, dv = STAND_IN.backward(*inputs, **options)
    return dq, dk, dv.at[0, 0, 0, 0].set(jnp.nan)


@pytest.mark.parametrize(
    ("kernel", "where"),
    [
        (Kernel(wrong_values, STAND_IN.backward), "out"),
        (Kernel(STAND_IN.forward, wrong_gradients), "prefix dv|dv"),
    ],
    ids=["wrong out", "NaN gradient"],
)
def test_a_kernel_that_computes_wrongly_is_not_taken(as_cudnn, kernel, where):
    as_cudnn(kernel)
    heads = Heads(**{**vars(HEADS), "dtype": "float32"})
    backend = choose_backend("auto", jax.devices(), heads)
    assert backend.name == "xla_blockwise"
    with pytest.raises(ValueError, match=f"failed its check: ({where}) differs from xla_dense"):
        choose_backend("cudnn", jax.devices(), heads)


@pytest.mark.parametrize(
    ("found", "others", "agreed"),
    [
        (None, [True, True], None),
        (None, [True, False], "failed its check in process 1"),
        ("no kernel here", [False, True], "no kernel here"),
    ],
)
def test_all_processes_use_a_kernel_or_none_does(found, others, agreed, as_cudnn, monkeypatch):
    """Two processes with a device each; what the other one found is put in its place."""
    as_cudnn(STAND_IN)
    told = []

    def gather(passed):
        told.append(bool(passed))
        return np.asarray(others)

    class Remote(H100):
        process_index = 1

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(choose, "check", lambda *_: found)
    monkeypatch.setattr(choose.multihost_utils, "process_allgather", gather)
    (here, *_) = jax.devices()
    backend = choose_backend("auto", [here, Remote()], HEADS)
    assert told == [found is None]
    assert backend.name == ("cudnn" if agreed is None else "xla_blockwise")
    assert agreed is None or agreed in backend.why


def test_documents_take_blockwise_where_the_choice_is_open():
    fast = choose_backend("auto", [H100()], HEADS)
    at = partial(for_documents, devices=[H100()], heads=HEADS)
    assert at("auto", fast).name == "xla_blockwise"
    assert at("auto", fast).why == "cudnn has no mask for documents"
    with pytest.raises(ValueError, match="attention='cudnn': cudnn has no mask for documents"):
        at("cudnn", fast)


@pytest.mark.parametrize(
    ("scoring", "lacking"),
    [(Scoring(softcap=50.0), "soft cap of scores"), (Scoring(slopes=(0.5,) * 8), "ALiBi")],
)
def test_what_cudnn_lacks_is_named_and_auto_goes_on(scoring, lacking):
    heads = replace(HEADS, scorings=(PLAIN, scoring))  # in some layers only
    with pytest.raises(ValueError, match=f"cuDNN's kernel has no {lacking}"):
        choose_backend("cudnn", [H100()], heads)
    backend = choose_backend("auto", [H100()], heads)
    assert backend.name == "xla_blockwise" and lacking in backend.why
    with pytest.raises(ValueError, match=f"'cudnn' has no {lacking}.* use 'xla_blockwise'"):
        make_backend("cudnn", cudnn.KERNEL).of(scoring)
