"""Compiled programs are kept where nobody else can put another in their place."""

import os

import jax
import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.host import compile_cache
from seq1f1b_jax.host.compile_cache import check_private, use_compile_cache


@pytest.fixture
def settings():
    """JAX's settings of the cache, put back afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_off_and_auto_on_a_cpu_leave_jax_as_it_is(tmp_path, settings):
    for setting, platform in (("off", "gpu"), ("auto", "cpu")):
        assert use_compile_cache(setting, run_folder=tmp_path, platform=platform) is None
    assert jax.config.jax_compilation_cache_dir is None


def test_an_empty_name_is_not_the_folder_one_is_in(tmp_path, settings):
    with pytest.raises(UserError, match="compile_cache is empty"):
        use_compile_cache("", run_folder=tmp_path, platform="cpu")


def test_auto_on_a_gpu_is_a_private_folder_below_home(tmp_path, settings, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = use_compile_cache("auto", run_folder=tmp_path / "run", platform="gpu")
    assert folder.is_relative_to(tmp_path) and jax.config.jax_compilation_cache_dir == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_runs_folder_is_refused_also_through_a_link(tmp_path, settings):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for folder in (tmp_path / "run" / "cache", tmp_path / "link" / "cache"):
        with pytest.raises(UserError, match="is in the run's folder"):
            use_compile_cache(str(folder), run_folder=tmp_path / "run", platform="cpu")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o750])
def test_a_folder_that_others_may_enter_is_refused_by_its_mode(tmp_path, mode):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UserError, match=f"mode {mode:04o}.*give one that is not there yet"):
        check_private(folder)


def test_a_link_and_an_open_folder_above_are_refused(tmp_path):
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="is a link"):
        check_private(tmp_path / "link")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UserError, match="where others may replace it"):
        check_private(tmp_path / "open" / "cache")
    (tmp_path / "open").chmod(0o1777)  # sticky, like /tmp: only the owner renames
    check_private(tmp_path / "open" / "cache")


def test_anothers_folder_is_refused_by_the_number(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(compile_cache.os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError, match=f"belongs to user {owner}, not to you .{owner + 1}."):
        check_private(folder)


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "cache").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be used .File exists"):
        check_private(tmp_path / "cache")
