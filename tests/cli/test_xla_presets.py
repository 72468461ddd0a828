"""Presets of XLA flags: what is set, what is left out, and asking the installed jaxlib."""

import os
from typing import get_args, get_type_hints

import pytest

from seq1f1b_jax.cli.xla_presets import PRESETS, blamed_flags, refused_flags, xla_environment
from seq1f1b_jax.config import UserError, XlaConfig

FLAG = "xla_gpu_deterministic_ops"
ALL = {name: value for flags in PRESETS.values() for name, value in flags.items()}


def settings(preset="deterministic", platform="gpu", *, flags="", unknown=()):
    refused = lambda asked: {name: "unknown here" for name in asked if name in unknown}  # noqa: E731
    return xla_environment(preset, platform, environment={"XLA_FLAGS": flags}, refused=refused)


def test_the_setting_names_every_preset():
    assert get_args(get_type_hints(XlaConfig)["preset"]) == tuple(PRESETS)


def test_a_preset_adds_to_the_flags_that_are_there():
    found = settings(flags="--xla_dump_to=dumps")
    assert found.variables == {"XLA_FLAGS": f"--xla_dump_to=dumps --{FLAG}=true"}
    assert found.messages == (f"xla.preset=deterministic: --{FLAG}=true",)


def test_flags_of_the_user_win_and_that_is_told():
    found = settings(flags=f"--{FLAG}=false")
    assert found.variables == {}
    assert any(f"--{FLAG}" in line and "which wins" in line for line in found.messages)


def test_a_flag_that_jaxlib_does_not_know_is_left_out_and_told():
    found = settings(unknown=[FLAG])
    assert found.variables == {}
    assert found.messages[0].endswith("no flag set")
    assert f"--{FLAG} left out: unknown here" in found.messages[1]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_flags_for_gpus_are_not_set_elsewhere(platform):
    found = settings(platform=platform)
    assert found.variables == {} and platform in found.messages[0]


def test_default_sets_and_tells_nothing():
    assert settings("default", flags="--a=1") == settings("default", platform="cpu")
    assert settings("default").messages == () and settings("default").variables == {}


def test_unknown_preset_names_those_there_are():
    with pytest.raises(UserError, match="'fast' is unknown; use one of default, overlap"):
        settings("fast")


def test_flags_in_a_file_are_refused():
    with pytest.raises(UserError, match="flags.txt names a file"):
        settings(flags="flags.txt")


def test_nothing_of_the_presets_is_in_a_loop_over_peers():
    assert not [flags for flags in PRESETS.values() if "xla_gpu_use_memcpy_local_p2p" in flags]


def test_blame_for_names_and_for_values():
    flags = {"xla_old": "true", "xla_odd": "maybe", "xla_fine": "true"}
    said = """
F1 parse_flags_from_env.cc:234] Unknown flags in XLA_FLAGS: --xla_old=true --xla_other=1
E1 command_line_flags.cc:93] Couldn't interpret value maybe for flag xla_odd.
Flags:
	--xla_fine=false	bool
"""
    assert blamed_flags(said, flags) == {
        "xla_old": "jaxlib does not know it", "xla_odd": "jaxlib does not take the value maybe",
    }


def test_the_installed_jaxlib_takes_the_presets_and_refuses_what_it_does_not_know():
    asked = {**ALL, "xla_gpu_no_such_flag": "1", FLAG: "true"}
    assert refused_flags(asked, environment=os.environ) == {
        "xla_gpu_no_such_flag": "jaxlib does not know it"
    }


def test_a_jaxlib_that_cannot_be_asked_gets_no_flags(tmp_path):
    refused = refused_flags({FLAG: "true"}, environment={}, python=str(tmp_path / "no-python"))
    assert "cannot be queried" in refused[FLAG]
