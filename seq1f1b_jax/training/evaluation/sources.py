"""What is evaluated: held-out sequences of every source of a run, and their losses together.

The loss of a mixture is that of its sources, each as much as its weight: what the mixture as asked
would lose. Every source has as many sequences, so that its own loss does not depend on weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seq1f1b_jax.data import Batch, MixedData, SequenceData
from seq1f1b_jax.data.mixture import Source, sources_of
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.evaluation.bigram import bigram_loss
from seq1f1b_jax.training.evaluation.held_out import Evaluate, HeldOut
from seq1f1b_jax.training.setup import Setup


class Part(NamedTuple):
    """Held-out sequences of a source.

    Attributes:
      source: which one; without a name where a run has only one.
      batches: its first held-out sequences, in the shape of training steps.
    """

    source: Source
    batches: tuple[Batch, ...]


class Losses(NamedTuple):
    """Held-out losses over all sources, and of each, by its name; nats per target.

    Attributes:
      all: over all sources, by position.
      by_source: of each; empty where a run has one.
    """

    all: HeldOut
    by_source: dict[str, float]


def held_out_batches(
    setup: Setup, data: SequenceData, num_sequences: int | None
) -> tuple[Batch, ...]:
    """The first held-out sequences, in the shape of training steps; None: all of them."""
    return data.held_out(
        num_sequences, num_microbatches=setup.config.schedule.num_microbatches,
        microbatch_size=setup.config.data.microbatch_size,
    )


def held_out_parts(
    setup: Setup, data: SequenceData | MixedData, num_sequences: int | None
) -> tuple[Part, ...]:
    """The same of every source, as many of each; None: all of them."""
    sources = sources_of(data)
    each = None if num_sequences is None else -(-num_sequences // len(sources))
    return tuple(Part(source, held_out_batches(setup, source.data, each)) for source in sources)


def evaluate_parts(evaluate: Evaluate, params: Params, *, parts: Sequence[Part]) -> Losses:
    """Evaluate every source, and all of them together."""
    found = [evaluate(params, part.batches) for part in parts]
    names = [part.source.name for part in parts] if len(parts) > 1 else []
    by_source = {name: losses.mean for name, losses in zip(names, found, strict=False)}
    return Losses(mixed([part.source.share for part in parts], found), by_source)


def bigram_losses(parts: Sequence[Part]) -> float:
    """The bigram model's loss over all sources: one model for each, fitted on its own sequences."""
    if len(parts) == 1:
        return bigram_loss(parts[0].source.data, parts[0].batches)
    losses = [bigram_loss(part.source.data, part.batches) for part in parts]
    weights, counts = weights_of(parts), list(map(num_targets, parts))
    together = sum(w * n * loss for w, n, loss in zip(weights, counts, losses, strict=True))
    return together / max(1, sum(counts))


def num_targets(part: Part) -> int:
    """Targets of a source's held-out sequences."""
    return sum(int((batch.targets >= 0).sum()) for batch in part.batches)


def weights_of(parts: Sequence[Part]) -> list[float]:
    """What a target of each source weighs in the losses over all."""
    return target_weights([part.source.share for part in parts], list(map(num_targets, parts)))


def mixed(shares: Sequence[float], found: Sequence[HeldOut]) -> HeldOut:
    """Losses of several sources as one: targets of each weigh so that they have its share.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.training.evaluation.held_out import HeldOut
      >>> one = HeldOut(np.array([9.0]), np.array([9]))
      >>> other = HeldOut(np.array([6.0]), np.array([3]))
      >>> mixed([0.5, 0.5], [one, other]).mean
      1.5
    """
    if len(found) == 1:
        return found[0]
    weights = target_weights(shares, [int(one.counts.sum()) for one in found])
    return HeldOut(
        np.sum([w * one.losses for w, one in zip(weights, found, strict=True)], axis=0),
        np.sum([w * one.counts for w, one in zip(weights, found, strict=True)], axis=0),
    )


def target_weights(shares: Sequence[float], counts: Sequence[int]) -> list[float]:
    """The weight of a target of each source, so that sources have their shares of all targets.

    Together they weigh as much as there are targets; a source without any has no share.

    Example:
      >>> target_weights([0.75, 0.25], [5, 15])
      [3.0, 0.3333333333333333]
    """
    present = sum(share for share, count in zip(shares, counts, strict=True) if count)
    total = sum(counts)
    return [
        share / present * total / count if count and present else 0.0
        for share, count in zip(shares, counts, strict=True)
    ]
