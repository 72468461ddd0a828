"""The sources of a run in words: what was asked, what is drawn, and what a resumed run changes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from seq1f1b_jax.data import Corpus, MixedData, SequenceData
from seq1f1b_jax.data.mixture import MIXTURE, Drawn
from seq1f1b_jax.training.setup import Setup

INDENT = " " * 10
"""Of the second and later lines of a row in the header."""


def describe_data(data: SequenceData | MixedData, *, num_sequences: int) -> str:
    """What a run trains on; of a mixture a line for each source.

    Args:
      data: its sequences.
      num_sequences: of the whole run.
    """
    if not isinstance(data, MixedData):
        return describe_corpus(data.corpus)
    size = sum(source.data.corpus.tokens.size for source in data.sources)
    lines = [
        f"{part.source.name}: {part.source.share:.4g} asked, so {describe_drawn(part)} in all steps"
        f"; {describe_corpus(part.source.data.corpus)}"
        for part in data.drawn(num_sequences)
    ]
    return f"\n{INDENT}".join([f"a mixture of {len(lines)} sources, {size:,} tokens", *lines])


def describe_corpus(corpus: Corpus) -> str:
    """Kind, size, hash and loss mask."""
    files = "1 file" if corpus.num_files == 1 else f"{corpus.num_files:,} files"
    text = f"{corpus.kind}, {corpus.tokens.size:,} tokens in {files}, sha256 {corpus.sha256[:12]}"
    return text + describe_mask(corpus)


def describe_mask(corpus: Corpus) -> str:
    """Which share of the tokens counts for the loss; empty where all do.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import Corpus
      >>> from seq1f1b_jax.training.preview.sources import describe_mask
      >>> describe_mask(Corpus(np.zeros(8, np.uint8), 1, "prepared", "0", 1, num_counted=2))
      ', 25.0% of its tokens count for the loss'
    """
    if corpus.num_counted is None:
        return ""
    return f", {corpus.num_counted / corpus.tokens.size:.1%} of its tokens count for the loss"


def describe_drawn(drawn: Drawn) -> str:
    """What a source gives, as a share, a number and its own epochs."""
    return f"{drawn.share:.4g} drawn ({drawn.number:,} sequences, {drawn.epochs:.2f} epochs)"


def drawn_rows(data: SequenceData | MixedData, num_sequences: int) -> Iterator[str]:
    """At the end of a run: what each source was asked for last, and what it gave in all."""
    if isinstance(data, MixedData):
        for part in data.drawn(num_sequences):
            text = f"{part.source.name}: {part.source.share:.4g} asked, {describe_drawn(part)}"
            yield f"{'source':<10}{text}"


def drawn_shares(
    data: SequenceData | MixedData, num_sequences: int, num_steps: int
) -> dict[str, float]:
    """The share of each source in the first steps, as numbers for `metrics.jsonl`.

    Args:
      data: of the run.
      num_sequences: of a step.
      num_steps: finished steps.
    """
    if not isinstance(data, MixedData):
        return {}
    drawn = data.drawn(num_steps * num_sequences)
    return {f"drawn/{part.source.name}": part.share for part in drawn}


def with_earlier_draws(
    data: SequenceData | MixedData, meta: Mapping[str, Any], setup: Setup, step: int,
    report: Callable[[str], None],
) -> SequenceData | MixedData:
    """The data of a resumed run: each source goes on where it was, by the record of a checkpoint.

    Weights that have changed are reported in a line.

    Args:
      data: as the settings say.
      meta: of the checkpoint.
      setup: of the run.
      step: the first one that runs now, counted from 0.
      report: receives the line.
    """
    if not isinstance(data, MixedData):
        return data
    resumed = data.resumed(meta[MIXTURE], step * setup.num_sequences)
    before = meta[MIXTURE][-1]["weights"]
    changed = resumed.draw.stretches[-1].start == step * setup.num_sequences
    if changed and step and step < setup.config.train.num_steps:
        total = sum(before.values())
        now = ", ".join(f"{source.name} {source.share:.4g}" for source in resumed.sources)
        was = ", ".join(f"{s.name} {before[s.key] / total:.4g}" for s in resumed.sources)
        report(
            f"note: from step {step + 1} on sources are drawn as {now} and not as {was}; each goes "
            "on where it was"
        )
    return resumed
