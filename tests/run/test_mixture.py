"""Runs on a mixture: resumed in the middle of an epoch, with other weights, with other data."""

import json

import pytest

from tests.run.test_resume import assert_same_run
from tests.run.tiny import command_line, copy_until, run

WORDS = "the quick brown fox jumps over the lazy dog and back again "


@pytest.fixture(scope="module")
def sources(tmp_path_factory, source):
    """The text of the other tests, and one of 18 sequences, which a run of 6 steps goes through."""
    small = tmp_path_factory.mktemp("mixed") / "small.txt"
    small.write_text((WORDS * 11)[:600], encoding="utf-8")
    return source, small


def mixed_line(folder, sources, *weights, **changes):
    pairs = zip(sources, weights, strict=True)
    given = "{" + ", ".join(f"{path}: {weight}" for path, weight in pairs) + "}"
    line = command_line(folder, "stdlib", data__sources=given, data__eval_fraction=0.1, **changes)
    return [word for word in line if not word.startswith("--data.source=")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sources):
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    outcome = run(*mixed_line(folder, sources, 0.2, 0.8))
    assert outcome.status == 0, outcome.err
    return folder, outcome.out


def numbers(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_weights_are_told_as_asked_and_as_drawn(whole):
    folder, told = whole
    assert "data      a mixture of 2 sources, " in told
    assert "\n          text.txt: 0.2 asked, so 0.2083 drawn (5 sequences, " in told
    assert "\nsource    small.txt: 0.8 asked, 0.7917 drawn (19 sequences, 1.12 epochs)\n" in told
    last = numbers(folder)[-1]
    assert last["drawn/small.txt"] == 19 / 24 and last["drawn/text.txt"] == 5 / 24
    one, other = last["held_out_loss/text.txt"], last["held_out_loss/small.txt"]
    assert last["held_out_loss"] == pytest.approx(0.2 * one + 0.8 * other, rel=1e-12)
    assert f"; text.txt {one:.4f}; small.txt {other:.4f}" in told
    evaluated = run("evaluate", f"--train.output_dir={folder}")
    assert evaluated.status == 0, evaluated.err
    assert f"\n  text.txt: {one:.4f}\n  small.txt: {other:.4f}\n" in evaluated.out


def test_a_resume_in_the_middle_of_an_epoch_is_bit_equal_wherever_the_files_are(
    whole, sources, tmp_path
):
    folder = copy_until(whole[0], tmp_path / "run", 2)
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(sources[1].read_bytes())
    outcome = run(*mixed_line(folder, (moved, sources[0]), 4, 1))  # the same ratio
    assert outcome.status == 0, outcome.err
    assert "after step 2" in outcome.out and "sources are drawn" not in outcome.out
    named = [json.dumps(line).replace("elsewhere", "small") for line in numbers(folder)]
    (folder / "metrics.jsonl").write_text("\n".join(named) + "\n")
    assert_same_run(folder, whole[0])


def test_other_weights_hold_from_the_resume_on_and_are_told(whole, sources, tmp_path):
    folder = copy_until(whole[0], tmp_path / "run", 4)
    outcome = run(*mixed_line(folder, sources, 1, 1))
    assert outcome.status == 0, outcome.err
    assert (
        "note: from step 5 on sources are drawn as text.txt 0.5, small.txt 0.5 and not as text.txt "
        "0.2, small.txt 0.8; each goes on where it was\n"
    ) in outcome.out
    assert numbers(folder)[-1]["drawn/text.txt"] == (3 + 4) / 24
    meta = next(folder.glob("checkpoints/000006/meta.json"))
    starts = [part["start"] for part in json.loads(meta.read_text())["meta"]["mixture"]]
    assert starts == [0, 16]
    losses, before = ([n["loss"] for n in numbers(f) if "loss" in n] for f in (folder, whole[0]))
    assert losses[:4] == before[:4] and losses[4:] != before[4:]


def test_another_source_is_refused_by_name(whole, sources, source, tmp_path):
    folder = copy_until(whole[0], tmp_path / "run", 2)
    other = tmp_path / "other.txt"
    other.write_text(WORDS * 9, encoding="utf-8")
    outcome = run(*mixed_line(folder, (sources[0], other), 1, 1))
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert "was trained on other data (" in outcome.err
    assert "sources.other.txt" in outcome.err and "sources.small.txt" in outcome.err
    alone = run(*command_line(folder, sources[0]))
    assert alone.status == 2 and "kind: checkpoint mixture, this run text" in alone.err
    both = [f"--data.source={source}", *mixed_line(folder, sources, 1, 1)]
    assert run(*both).err.startswith("error: --data.source and --data.sources both say")
    refused = run(*mixed_line(tmp_path / "none", sources, 1, -1))
    assert refused.status == 2 and "the weight of" in refused.err and "is -1.0; use" in refused.err
