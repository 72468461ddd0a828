"""Processes that are not alike are told apart before they hang."""

from dataclasses import replace

import jax
import pytest

from seq1f1b_jax.config import Config, DistributedConfig, UserError
from seq1f1b_jax.distributed.fingerprint import (
    check_same,
    code_hash,
    differences,
    file_hash,
    numerics_of,
    settings_of,
)
from tests.distributed.test_group import groups, together


def test_the_line_names_every_process_and_part():
    told = together(
        groups(3),
        lambda group: check_same(
            group, {"jax": "1.0", "--model.dim": 8 + group.index // 2}, clock=lambda: 100.0
        ),
    )
    assert all(isinstance(error, UserError) for error in told)
    assert {str(error) for error in told} == {
        "the processes of this run are not alike: --model.dim is 9 in process 2 and 8 in process "
        "0; start all of them with the same code, settings, variables and data"
    }


def test_equal_processes_are_let_through_and_a_clock_that_is_off_is_a_warning():
    clocks = [1000.0, 1004.0, 940.0]
    told = together(
        groups(3), lambda group: check_same(group, {"x": 1}, clock=lambda: clocks[group.index])
    )
    assert told == [["the clock of process 2 differs by -60 s from that of process 0"]] * 3


def test_parts_that_one_process_lacks_are_told_too():
    parts = [{"data (kind)": "text"}, {"data (kind)": "tokens", "data (dtype)": "uint16"}]
    assert differences(parts) == [
        "data (kind) is tokens in process 1 and text in process 0",
        "data (dtype) is uint16 in process 1 and not there in process 0",
    ]
    assert differences(parts[::-1])[1] == (
        "data (dtype) is not there in process 1 and uint16 in process 0"
    )


def test_long_values_are_cut():
    [line] = differences([{"x": "a" * 100}, {"x": "b" * 100}])
    assert line == f"x is {'b' * 57}... in process 1 and {'a' * 57}... in process 0"


def test_settings_are_all_but_the_number_of_the_process():
    first, second = (
        settings_of(replace(Config(), distributed=DistributedConfig(process_id=index)))
        for index in (0, 1)
    )
    assert first == second and "--model.num_layers" in first
    assert "--distributed.process_id" not in first


VARIABLES = {
    "JAX_ENABLE_X64": ("1", "0"), "JAX_NUM_CPU_DEVICES": ("4", "8"),
    "NVIDIA_TF32_OVERRIDE": ("0", "1"),
}  # fmt: skip
FLAGS = {"--xla_gpu_deterministic_ops": "true", "--xla_gpu_autotune_level": "0"}


def told_of(first, second, options=({}, {})):
    return differences([numerics_of(first, options[0]), numerics_of(second, options[1])])


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_differs_is_named_with_both_values(name):
    theirs, ours = VARIABLES[name]
    told = told_of({name: theirs, "HOME": "/a"}, {name: ours, "HOME": "/b"})
    assert told == [f"{name} is {ours} in process 1 and {theirs} in process 0"]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_xla_that_differs_is_named_alone(flag):
    same = "--xla_dump_to=/host1 --xla_cpu_multi_thread_eigen=false"
    theirs = {"XLA_FLAGS": f"{same} {flag}={FLAGS[flag]}"}
    ours = {"XLA_FLAGS": same.replace("host1", "host2")}
    assert told_of(theirs, ours) == [
        f"XLA_FLAGS {flag} is not there in process 1 and {FLAGS[flag]} in process 0"
    ]


def test_an_option_that_the_program_has_set_counts_once_with_its_variable():
    options = {"jax_enable_x64": False, "jax_default_matmul_precision": None}
    others = {"jax_enable_x64": True, "jax_default_matmul_precision": "highest"}
    told = told_of({}, {"JAX_ENABLE_X64": "1"}, (options, others))
    assert told == [
        "JAX_DEFAULT_MATMUL_PRECISION is highest in process 1 and None in process 0",
        "JAX_ENABLE_X64 is True in process 1 and False in process 0",
    ]


def test_what_must_differ_may_differ():
    names = ["JAX_PROCESS_ID", "JAX_LOCAL_DEVICE_IDS", "JAX_COORDINATOR_BIND_ADDRESS",
             "JAX_CUDA_VISIBLE_DEVICES", "JAX_COMPILATION_CACHE_DIR", "JAX_DUMP_IR_TO",
             "JAX_COORDINATOR_ADDRESS", "JAX_LOGGING_LEVEL"]  # fmt: skip
    flags = "--xla_dump_to={0} --xla_gpu_kernel_cache_file={0}"
    flags += " --xla_gpu_dump_autotune_results_to={0}"
    first, second = (
        dict.fromkeys(names, host) | {"XLA_FLAGS": flags.format(host)} for host in "ab"
    )
    options = {"jax_cuda_visible_devices": "0"}, {"jax_cuda_visible_devices": "1"}
    assert told_of(first, second, options) == []


def test_the_options_of_this_jax_are_seen():
    told = numerics_of({}, jax.config.values)
    assert {"JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL"} <= set(told)
    assert "JAX_COMPILATION_CACHE_DIR" not in told


@pytest.mark.parametrize("change", ["edit", "rename"])
def test_another_source_is_another_code(change, tmp_path, monkeypatch):
    from seq1f1b_jax.distributed import fingerprint

    package = tmp_path / "seq1f1b_jax" / "distributed"
    package.mkdir(parents=True)
    monkeypatch.setattr(fingerprint, "__file__", str(package / "fingerprint.py"))
    (package / "a.py").write_text("x = 1\n")
    before = code_hash()
    if change == "edit":
        (package / "a.py").write_text("x = 2\n")
    else:
        (package / "a.py").rename(package / "b.py")
    assert code_hash() != before


def test_a_file_and_no_file_are_told_apart(tmp_path):
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    paths = [None, tmp_path / "a.py", tmp_path / "b.py"]
    assert len({file_hash(path and str(path)) for path in paths}) == 3
