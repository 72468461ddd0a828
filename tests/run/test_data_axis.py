"""Runs on several pipelines: the same steps, and a resume on other ones."""

import pytest

from tests.run.tiny import command_line, copy_until, held_out_losses, losses, run

SIZES = {"schedule__num_microbatches": 2, "data__microbatch_size": 2}


@pytest.fixture(scope="module")
def two_pipelines(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two"
    outcome = run(*command_line(folder, source, mesh__data=2, **SIZES))
    assert (outcome.status, outcome.err) == (0, "")
    assert "\nmesh      4 x virtual CPU device, data 2, pipe 2\n" in outcome.out
    assert "\nstep      2 microbatches of 2: 128 tokens\n" in outcome.out
    return folder


def assert_near(ours, other):
    assert ours.keys() == other.keys() and len(ours) > 0
    assert all(abs(ours[step] / other[step] - 1) <= 1e-5 for step in other)


def test_losses_are_those_of_one_pipeline(two_pipelines, finished):
    """The default has as many sequences a step, in as many microbatches of one."""
    assert_near(losses(two_pipelines), losses(finished))
    assert_near(held_out_losses(two_pipelines), held_out_losses(finished))


@pytest.mark.slow
@pytest.mark.parametrize("data, pipe", [(1, 4), (2, 1)])
def test_a_run_resumes_on_another_mesh(data, pipe, two_pipelines, source, tmp_path):
    folder = copy_until(two_pipelines, tmp_path / "run", 2)
    sizes = SIZES | {"mesh__data": data, "mesh__pipe": pipe}
    outcome = run(*command_line(folder, source, **sizes))
    assert outcome.status == 0 and "after step 2" in outcome.out
    assert_near(losses(folder), losses(two_pipelines))


BAD = {
    "a microbatch that cannot be spread": (
        {"mesh__data": 2}, ["data.microbatch_size=1", "mesh.data=2", "--data.microbatch_size 2"]
    ),
    "more pipelines than devices": (
        {"mesh__data": 8, "data__microbatch_size": 8},
        ["mesh.data=8 pipelines of mesh.pipe=2", "8 are present", "--mesh.pipe 1"],
    ),
    "no pipeline": ({"mesh__data": 0}, ["mesh.data=0", "above 0"]),
}  # fmt: skip


@pytest.mark.parametrize("changes, told", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(changes, told, source, tmp_path):
    outcome = run(*command_line(tmp_path / "run", source, **changes))
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert all(words in outcome.err for words in told), outcome.err
