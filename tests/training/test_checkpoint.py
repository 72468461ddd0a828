"""Checkpoints: bit-exact, atomic, found damaged when they are, and never lost."""

import os
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from seq1f1b_jax.training.checkpoint import folder as folders
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import differences, find_checkpoint, load_state


def awkward_state(seed=0):
    """Random bits in every type we store, NaNs among them; scalars; optax's tuples."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, 12, np.uint32).reshape(3, 4)
    types = {"w": np.float32, "h": ml_dtypes.bfloat16, "i": np.int32, "u": np.uint32}
    params = {name: bits.view(dtype) for name, dtype in types.items()}
    return {
        "params": params,
        "optimizer": optax.adamw(1e-3).init({"w": jnp.asarray(params["w"])}),
        "step": jnp.int32(seed),
        "plain": 3,
    }


def small_state(value):
    return {"w": np.full((4, 5), value, np.float32), "b": np.full(3, value, np.int32)}


def saved_run(directory, steps, keep=9):
    with Checkpointer(directory, keep=keep) as checkpointer:
        for step in steps:
            checkpointer.save(step, small_state(step), meta={"config": {"layers": step}})


def assert_same_bits(restored, expected):
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        old = np.asarray(old)
        assert (new.dtype, new.shape, new.tobytes()) == (old.dtype, old.shape, old.tobytes())


def flip_a_bit(path, position):
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 0x10
    path.write_bytes(data)


# ---- what comes back


def test_every_type_comes_back_bit_for_bit(tmp_path):
    state = awkward_state()
    meta = {"config": {"lengths": (1, 2), "name": "größe"}, "rate": 1e-3}
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(7, state, meta=meta)
        shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state)) | {"plain": np.int64(0)}
        step, restored, read = checkpointer.restore(like=shapes)
    assert step == 7
    assert_same_bits(restored, state)
    assert read == {"config": {"lengths": [1, 2], "name": "größe"}, "rate": 1e-3}
    assert sorted(os.listdir(tmp_path / "000007")) == ["files.json", "meta.json", "state"]


def test_values_are_those_at_the_call_though_arrays_are_overwritten_and_donated(tmp_path):
    host = {f"h{i}": np.full((256, 256), 1.0, np.float32) for i in range(8)}
    device = {f"d{i}": jnp.full((256, 256), 1.0) for i in range(8)}
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + 7, tree), donate_argnums=0)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(1, {**host, **device}, meta={})
        for array in host.values():
            array[:] = 7
        device = jax.block_until_ready(overwrite(device))
        restored = checkpointer.restore(like={**host, **device}).state
    assert {float(x.min()) for x in restored.values()} == {1.0}
    assert {float(x.max()) for x in restored.values()} == {1.0}


def test_arrays_sharded_over_devices_are_saved_whole(tmp_path):
    mesh = jax.make_mesh((4,), ("pipe",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("pipe"))
    whole = np.arange(32, dtype=np.float32).reshape(8, 4)
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(1, {"w": jax.device_put(whole, spec)}, meta={})
        assert_same_bits(checkpointer.restore(like={"w": whole}).state, {"w": whole})


# ---- which ones stay


def test_the_newest_stay_and_an_old_one_goes_after_the_next_is_committed(tmp_path, monkeypatch):
    removed = []

    def spy(folder):
        removed.append((int(folder.name), folders.committed_steps(tmp_path)))
        real(folder)

    real = folders.remove
    monkeypatch.setattr(folders, "remove", spy)
    saved_run(tmp_path, [1, 2, 3, 4], keep=2)
    assert folders.committed_steps(tmp_path) == (3, 4)
    assert removed == [(1, (1, 2, 3)), (2, (2, 3, 4))]


def test_saving_returns_before_the_commit_and_the_next_save_waits_for_it(tmp_path, monkeypatch):
    events = []

    def slow(saved, target):
        time.sleep(0.3)
        real(saved, target)
        events.append(f"committed {target.name}")

    real = folders.commit
    monkeypatch.setattr(folders, "commit", slow)
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save(1, small_state(1), meta={})
        events.append("save 1 returned")
        assert checkpointer.steps() == ()
        checkpointer.save(2, small_state(2), meta={})
        events.append("save 2 returned")
        assert checkpointer.steps() == (1,)
    assert events == [
        "save 1 returned", "committed 000001", "save 2 returned", "committed 000002",
    ]


def test_a_run_that_goes_back_supersedes_later_checkpoints(tmp_path):
    saved_run(tmp_path, [10, 20, 30])
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.restore(10, like=small_state(0)).state["b"][0] == 10
        checkpointer.save(15, small_state(15), meta={})
        checkpointer.wait()
        assert checkpointer.steps() == (10, 15)
        checkpointer.save(15, small_state(99), meta={})  # the same step again
        assert checkpointer.restore(like=small_state(0)).state["b"][0] == 99
    assert sorted(os.listdir(tmp_path)) == ["000010", "000015"]


# ---- damage


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_harm_to_any_file_is_noticed_and_the_newest_good_one_used(tmp_path, harm):
    saved_run(tmp_path, [1, 2, 3])
    files = [path for path in sorted((tmp_path / "000003").rglob("*")) if path.is_file()]
    assert len(files) > 5
    for number, path in enumerate(files):
        content = path.read_bytes()
        if not content and harm != "remove":
            continue  # Orbax's empty marker file has nothing to flip or to cut
        if harm == "flip":
            flip_a_bit(path, 7919 * number)
        elif harm == "truncate":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.unlink()
        lines = []
        checkpoint = find_checkpoint(tmp_path, report=lines.append)
        assert checkpoint.step == 2, path
        assert len(lines) == 1 and "step 3 is damaged" in lines[0], path
        path.write_bytes(content)
    assert find_checkpoint(tmp_path, report=pytest.fail).step == 3


def test_every_bit_of_the_values_is_covered(tmp_path):
    saved_run(tmp_path, [1])
    path = max((tmp_path / "000001" / "state").rglob("ocdbt.process_0/d/*"), key=os.path.getsize)
    for position in range(path.stat().st_size):
        flip_a_bit(path, position)
        assert "CRC-32" in (folders.damage(tmp_path / "000001") or ""), position
        flip_a_bit(path, position)


def test_restore_falls_back_says_so_and_the_damaged_one_does_not_outlive_the_next_save(tmp_path):
    saved_run(tmp_path, [1, 2])
    flip_a_bit(tmp_path / "000002" / "meta.json", 30)
    lines = []
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        step, state, meta = checkpointer.restore(like=small_state(0), report=lines.append)
        assert (step, state["b"].tolist(), meta) == (1, [1, 1, 1], {"config": {"layers": 1}})
        checkpointer.save(3, small_state(3), meta={})
        checkpointer.wait()
        assert checkpointer.steps() == (1, 3)  # the good one stays, the damaged one went
    assert len(lines) == 1 and "meta.json is not what was written: CRC-32" in lines[0]


def test_no_good_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    with pytest.raises(ValueError, match=f"no checkpoint in {tmp_path}"):
        find_checkpoint(tmp_path)
    saved_run(tmp_path, [1, 2])
    for step, nothing in {1: "[]", 2: "{}"}.items():
        (tmp_path / f"{step:06d}" / "files.json").write_text(nothing)
    lines = []
    with pytest.raises(ValueError, match=r"no undamaged checkpoint in .*looked at: 1, 2"):
        find_checkpoint(tmp_path, report=lines.append)
    assert len(lines) == 2
    with pytest.raises(ValueError, match="no checkpoint of step 5 .* there are: 1, 2"):
        find_checkpoint(tmp_path, 5)
    with pytest.raises(ValueError, match="looked at: 1"):  # asked for by number: no other is taken
        find_checkpoint(tmp_path, 1, report=lines.append)


# ---- another model


def test_another_model_is_told_leaf_by_leaf(tmp_path):
    saved_run(tmp_path, [1])
    like = {"w": np.zeros((4, 6), np.float32), "b": np.zeros(3, np.int64), "new": np.zeros(2)}
    with pytest.raises(ValueError, match="step 1 is of another model: 3 arrays differ") as error:
        load_state(find_checkpoint(tmp_path), like)
    told = [
        "b: checkpoint int32[3], this run int64[3]",
        "new: checkpoint has none, this run float64[2]",
        "w: checkpoint float32[4,5], this run float32[4,6]",
    ]
    assert f"({'; '.join(told)})" in str(error.value)
    with pytest.raises(ValueError, match="22 arrays differ") as error:
        load_state(find_checkpoint(tmp_path), {f"x{i:02}": np.zeros(1) for i in range(20)})
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).count(": checkpoint ") == 8 and "and 14 more)" in str(error.value)


def test_differences_of_configurations():
    saved = {"model": {"layers": 8, "lengths": [1, 2]}, "seed": 0, "old": None}
    current = {"model": {"layers": 12, "lengths": (1, 2), "tied": True}, "seed": 0, "empty": {}}
    assert differences(saved, current) == [
        "model.layers: checkpoint 8, this run 12",
        "model.tied: checkpoint has none, this run True",
        "old: checkpoint None, this run has none",
    ]
    assert differences(saved, saved) == []


# ---- bad luck while writing


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match="cannot write checkpoints to .*set train.output_dir"):
        Checkpointer(tmp_path / "runs" / "x", keep=2)
    with pytest.raises(ValueError, match="checkpoint.keep=0"):
        Checkpointer(tmp_path, keep=0)


def test_a_write_that_fails_in_the_background_is_raised_and_loses_nothing(tmp_path, monkeypatch):
    saved_run(tmp_path, [1])

    def full(folder, meta):
        raise OSError(28, "No space left on device")

    checkpointer = Checkpointer(tmp_path, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "seal", full)
        checkpointer.save(2, small_state(2), meta={})
        with pytest.raises(ValueError, match=r"step 2 was not written .*No space.*steps: \(1,\)"):
            checkpointer.wait()
    assert checkpointer.restore(like=small_state(0)).step == 1
    checkpointer.save(2, small_state(2), meta={})  # there is space again
    checkpointer.close()
    assert sorted(os.listdir(tmp_path)) == ["000002"]


def test_what_json_cannot_hold_is_an_error_at_the_call(tmp_path):
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpointer.save(1, small_state(1), meta={"config": object()})
        assert os.listdir(tmp_path) == []


def test_opening_clears_what_a_dead_run_left(tmp_path):
    saved_run(tmp_path, [1, 2])
    (tmp_path / "000003.saving" / "state").mkdir(parents=True)
    (tmp_path / "000001").rename(tmp_path / "000001.deleting")
    (tmp_path / "000002").rename(tmp_path / "000002.replaced")  # killed between the two renames
    Checkpointer(tmp_path, keep=2).close()
    assert os.listdir(tmp_path) == ["000002"]
    assert find_checkpoint(tmp_path).step == 2
    (tmp_path / "000002.replaced" / "state").mkdir(parents=True)  # killed after them
    Checkpointer(tmp_path, keep=2).close()
    assert os.listdir(tmp_path) == ["000002"]
