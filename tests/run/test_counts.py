"""What `metrics.jsonl` counts in a run on packed documents, on a mesh of two pipelines."""

import random

import pytest

from seq1f1b_jax.data import load_corpus, make_data
from seq1f1b_jax.training.reports.metrics import read_metrics
from tests.run.tiny import command_line, run


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A folder of 80 texts of 3 to 40 letters, of which sequences of 32 hold a few each."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("documents")
    for number in range(80):
        letters = "".join(draw.choices("abcdefgh", k=draw.randint(3, 40)))
        (folder / f"{number}.txt").write_text(letters, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_rates_are_of_tokens_that_are_trained_on_in_all_pipelines(documents, tmp_path):
    shape = {"schedule__num_microbatches": 2, "data__microbatch_size": 2}
    changes = {"mesh__data": 2, "data__packing": "documents", "train__num_steps": 3,
               "data__long_documents": "drop", "schedule__documents": "ignore"}  # fmt: skip
    outcome = run(*command_line(tmp_path / "run", documents, **changes, **shape))
    assert outcome.status == 0, outcome.err
    lines = [x for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in x]
    corpus = load_corpus(str(documents))
    data = make_data(
        corpus, seq_len=32, eval_fraction=0.05, seed=0, packing="documents", long_documents="drop"
    )
    for step, line in enumerate(lines):
        batch = data.batch(step, num_microbatches=2, microbatch_size=2)
        trained = int((batch.targets >= 0).sum())
        assert trained < 0.95 * batch.tokens.size  # else nothing is tested
        seconds = line["step_seconds"]
        assert line["tokens_per_second"] * seconds == pytest.approx(trained, rel=1e-12)
        assert line["positions_per_second"] * seconds == pytest.approx(4 * 32, rel=1e-12)
        visible = (range(32) - batch.starts + 1)[batch.targets >= 0].sum()
        matmuls = 6 * (layer_params(4, 16, 32) + corpus.vocab_size * 16) * trained
        attention = 12 * visible * 4 * 16  # layers and the width of all heads together
        assert line["model_flops_per_second"] * seconds == pytest.approx(matmuls + attention)
    rate = lines[-1]["tokens_per_second"]
    assert f"{rate:.0f} tokens/s" in outcome.out or f"{rate / 1e3:.1f}k tokens/s" in outcome.out


def layer_params(num_layers, width, mlp):
    """Of llama: four square matrices, three of the MLP, two norms."""
    return num_layers * (4 * width * width + 3 * width * mlp + 2 * width)
