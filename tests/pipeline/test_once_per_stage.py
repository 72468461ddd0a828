"""What is remembered of a stage: only where its values say what it is equal to."""

from dataclasses import dataclass, field
from types import SimpleNamespace

from seq1f1b_jax.pipeline.stage import once_per_stage


@dataclass(frozen=True)
class ByValue:
    width: int
    names: list = field(default_factory=list, hash=False)


@dataclass(frozen=True)
class WithoutHash:
    width: list


class ByIdentity:
    def __init__(self, width):
        self.width = width


def counted():
    calls = []

    @once_per_stage
    def width_of(stage, times):
        calls.append(stage)
        return stage.width * times

    return width_of, calls


def test_equal_stages_are_asked_once():
    width_of, calls = counted()
    assert [width_of(ByValue(3), 2), width_of(ByValue(3), 2), width_of(ByValue(4), 2)] == [6, 6, 8]
    assert width_of(ByValue(3), 1) == 3 and len(calls) == 3


def test_a_stage_that_may_be_changed_is_asked_every_time():
    for stage in (ByIdentity(3), SimpleNamespace(width=3)):
        width_of, calls = counted()
        assert width_of(stage, 2) == 6
        stage.width = 4
        assert width_of(stage, 2) == 8 and len(calls) == 2


def test_a_stage_without_a_hash_is_asked_every_time():
    width_of, calls = counted()
    assert width_of(WithoutHash([3]), 1) == width_of(WithoutHash([3]), 1) == [3]
    assert len(calls) == 2
