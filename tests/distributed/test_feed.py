"""Every process makes the rows of its own pipelines."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from seq1f1b_jax.data import Batch
from seq1f1b_jax.pipeline.mesh import make_mesh
from seq1f1b_jax.training.feed import Feed

SIZE = 8  # sequences of a microbatch


def rows_by_process(*, data, pipe, tensor, num_processes):
    """What `own_rows` says in every process, with the devices dealt out in order."""
    mesh = make_mesh(pipe, num_data=data, num_tensor=tensor)
    devices = mesh.devices.flatten().tolist()
    each = len(devices) // num_processes
    found = []
    for process in range(num_processes):
        own = devices[process * each : (process + 1) * each]

        class Sharding:
            def __init__(self, whole):
                self._whole = whole

            def addressable_devices_indices_map(self, shape, own=own):
                everywhere = self._whole.devices_indices_map(shape)
                return {device: everywhere[device] for device in own}

        whole = Feed(mesh, 2, SIZE)._sharding
        stand_in = SimpleNamespace(mesh=mesh, microbatch_size=SIZE, num_microbatches=2)
        stand_in._sharding = Sharding(whole)
        found.append(Feed.own_rows(stand_in))
    return [(rows.start, rows.stop) for rows in found]


@pytest.mark.parametrize(
    "mesh, num_processes, expected",
    [
        ((2, 2, 2), 1, [(0, 8)]),
        ((2, 2, 2), 2, [(0, 4), (4, 8)]),  # a pipeline each
        ((4, 2, 1), 2, [(0, 4), (4, 8)]),  # two pipelines each
        ((2, 4, 1), 4, [(0, 4), (0, 4), (4, 8), (4, 8)]),  # half of a pipeline each
        ((1, 8, 1), 4, [(0, 8)] * 4),  # one pipeline, shared by all
        ((8, 1, 1), 2, [(0, 4), (4, 8)]),
    ],
    ids=str,
)
def test_rows_of_every_process(mesh, num_processes, expected):
    data, pipe, tensor = mesh
    found = rows_by_process(
        data=data, pipe=pipe, tensor=tensor, num_processes=num_processes
    )
    assert found == expected


@pytest.mark.parametrize("data", [1, 2, 4])
def test_every_device_gets_its_part_and_the_batch_is_whole(data):
    feed = Feed(make_mesh(2, num_data=data), 2, SIZE)
    tokens = np.arange(2 * SIZE * 3, dtype=np.int32).reshape(2, SIZE, 3)
    batch = feed.whole(Batch(tokens, tokens + 1, None))
    assert batch.starts is None
    np.testing.assert_array_equal(batch.tokens, tokens)
    np.testing.assert_array_equal(batch.targets, tokens + 1)
    assert {shard.data.shape[1] for shard in batch.tokens.addressable_shards} == {SIZE // data}
    assert len(jax.devices()) == 8
