"""A mixture: sequences of several sources in the ratio of their weights.

Each source is what it would be alone: its own sequences, some held out, the rest in an order of its
own, epoch after epoch. `draw` says which source gives the sequence at each place of the run, so a
source comes round again only after it has given everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.corpus import Corpus
from seq1f1b_jax.data.draw import Draw, Stretch
from seq1f1b_jax.data.sequences import Batch, SequenceData, grouped, step_items

MIXTURE = "mixture"
"""In the record of a checkpoint: the weights of all steps before it."""


class Source(NamedTuple):
    """One source of a mixture.

    Attributes:
      name: short, and different from the others.
      share: its part of the sequences, as asked; those of all add up to 1.
      data: its sequences.
    """

    name: str
    share: float
    data: SequenceData

    @property
    def key(self) -> str:
        """What it is known by, whatever its name: the hash of its tokens."""
        return self.data.corpus.sha256


class Drawn(NamedTuple):
    """What a source has given up to some step.

    Attributes:
      source: which one.
      number: sequences.
      share: their part of all.
      epochs: how often all its training sequences were given.
    """

    source: Source
    number: int
    share: float
    epochs: float


@dataclass(frozen=True, eq=False)
class MixedData:
    """Training sequences of several sources. Made by `make_mixture`.

    Attributes:
      sources: in the order in which they were asked for, which decides nothing.
      draw: which of them gives the sequence at each place.
    """

    sources: tuple[Source, ...]
    draw: Draw

    @property
    def corpus(self) -> Corpus:
        """The first source's; vocabulary and tokenizer are those of all."""
        return self.sources[0].data.corpus

    @property
    def seq_len(self) -> int:
        """Tokens of a sequence."""
        return self.sources[0].data.seq_len

    @property
    def identity(self) -> dict[str, Any]:
        """What must match for a resumed run: that of every source, by name. Weights may change."""
        sources = {source.name: source.data.identity for source in self.sources}
        return {"kind": MIXTURE, "sources": sources}

    @property
    def record(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps, so that a resumed run knows what each source has given."""
        stretches = self.draw.stretches
        return [{"start": start, "weights": dict(weights)} for start, weights in stretches]

    @property
    def fill_rate(self) -> float:
        """Fraction of positions that hold a token, in a mixture as asked."""
        return sum(source.share * source.data.fill_rate for source in self.sources)

    def mean_visible_keys(self, *, window: int | None = None) -> Float64[np.ndarray, " seq_len"]:
        """Mean number of keys visible at each position, in a mixture as asked."""
        keys = [s.share * s.data.mean_visible_keys(window=window) for s in self.sources]
        return np.sum(keys, axis=0)

    def batch(
        self, step: int, *, num_microbatches: int, microbatch_size: int, rows: slice = slice(None)
    ) -> Batch:
        """The batch of step `step`: a function of (sources, seed, step, weights).

        Only `rows` of every microbatch are read.
        """
        places = step_items(step, num_microbatches, microbatch_size, rows)
        picks = [self.draw.pick(place) for place in places.tolist()]
        parts, positions = [], []
        for source in self.sources:
            at = [position for position, pick in enumerate(picks) if pick.key == source.key]
            if at:
                items = np.array([picks[position].index for position in at], np.int64)
                parts.append(source.data.drawn(items))
                positions += at
        return grouped(_in_order(parts, np.array(positions)), num_microbatches)

    def drawn(self, num_sequences: int) -> tuple[Drawn, ...]:
        """What each source gives of the first sequences of the run."""
        counts = self.draw.counts(num_sequences)
        return tuple(
            Drawn(
                source, counts[source.key], counts[source.key] / max(1, num_sequences),
                counts[source.key] / source.data.split.train.size,
            )
            for source in self.sources
        )

    def resumed(self, record: Sequence[Mapping[str, Any]], num_sequences: int) -> "MixedData":
        """As a run goes on that has drawn `num_sequences` so far by `record`.

        Other weights than those of the record hold from there on.
        """
        stretches = tuple(Stretch(part["start"], dict(part["weights"])) for part in record)
        before = replace(self.draw, stretches=stretches)
        return replace(self, draw=before.changed(num_sequences, self.draw.weights))


def make_mixture(data: Mapping[str, SequenceData], weights: Mapping[str, float]) -> MixedData:
    """Mix sources.

    Args:
      data: the sequences of each source by its path, of one `seq_len` and one seed.
      weights: by the same paths; at least 0, one of them above. They need not add up to 1.

    Raises:
      UserError: sources of different tokenizers or vocabularies, or one given twice.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import Corpus, make_data, make_mixture
      >>> sizes = dict(seq_len=4, eval_fraction=0.1, seed=0)
      >>> corpora = (Corpus(np.full(500, i), 9, "tokens", str(i), 1) for i in (1, 2))
      >>> a, b = (make_data(corpus, **sizes) for corpus in corpora)
      >>> mixed = make_mixture({"data/a": a, "data/b": b}, {"data/a": 3, "data/b": 1})
      >>> mixed.batch(0, num_microbatches=1, microbatch_size=8).tokens[0, :, 0].tolist()
      [1, 2, 1, 1, 1, 2, 1, 1]
    """
    check_alike(data)
    total = sum(weights.values())
    names = short_names(list(data))
    sources = tuple(
        Source(name, weights[path] / total, data[path])
        for name, path in zip(names, data, strict=True)
    )
    by_key = {source.key: float(weights[path]) for source, path in zip(sources, data, strict=True)}
    return MixedData(sources, Draw(next(iter(data.values())).seed, (Stretch(0, by_key),)))


def sources_of(data: SequenceData | MixedData) -> tuple[Source, ...]:
    """The sources of a run; one without a name where it is no mixture."""
    return data.sources if isinstance(data, MixedData) else (Source("", 1.0, data),)


def check_alike(data: Mapping[str, SequenceData]) -> None:
    """Refuse sources whose tokens mean different things, or that are the same.

    Raises:
      UserError: the first that differs from the first one, or is there twice.
    """
    (first, reference), *others = data.items()
    ours = _tokenizer(reference.corpus)
    seen = {reference.corpus.sha256: first}
    for path, other in others:
        theirs = _tokenizer(other.corpus)
        if theirs != ours:
            raise UserError(
                f"data.sources: {first} has the tokens of {ours.text}, and {path} those of "
                f"{theirs.text}; all need the same: prepare one again with --tokenizer of the other"
            )
        if other.corpus.vocab_size != reference.corpus.vocab_size:
            raise UserError(
                f"data.sources: {first} has a vocabulary of {reference.corpus.vocab_size}, and "
                f"{path} of {other.corpus.vocab_size}; set --model.vocab_size for both"
            )
        if other.corpus.sha256 in seen:
            raise UserError(
                f"data.sources: {path} holds the tokens of {seen[other.corpus.sha256]}; name it "
                "once, with the sum of the weights"
            )
        seen[other.corpus.sha256] = path


class _Tokens(NamedTuple):
    """Which tokenizer made tokens: its hash, and how a message names it."""

    sha256: str
    text: str


def _tokenizer(corpus: Corpus) -> _Tokens:
    tokenizer = corpus.load_tokenizer()
    if tokenizer is None:
        return _Tokens("unknown", "an unknown tokenizer (a .bin does not say)")
    digest = tokenizer.sha256
    shown = digest if len(digest) < 12 else f"a tokenizer.json with sha256 {digest[:12]}"
    return _Tokens(digest, shown)


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """The last parts of paths, as few as tell them apart.

    Example:
      >>> from seq1f1b_jax.data.mixture import short_names
      >>> short_names(["/data/web/tokens", "/data/code/tokens", "stdlib"])
      ('web/tokens', 'code/tokens', 'stdlib')
    """
    tails = {path: _tails(path) for path in paths}
    return tuple(
        next((t for t in tails[path] if sum(t in tails[other] for other in paths) == 1), path)
        for path in paths
    )


def _tails(path: str) -> list[str]:
    """A path from its last part on, then from the one before, and so on."""
    parts = PurePath(path).parts
    return ["/".join(parts[-depth:]) for depth in range(1, len(parts) + 1)]


def as_in(saved: Mapping[str, Any], current: Mapping[str, Any]) -> Mapping[str, Any]:
    """An identity in which sources have the names of another one: paths may change.

    Args:
      saved: `identity` of data, as a checkpoint has it.
      current: that of this run.

    Example:
      >>> from seq1f1b_jax.data.mixture import as_in
      >>> saved, moved = ({"sources": {name: {"sha256": "1"}}} for name in ("web", "old_web"))
      >>> as_in(saved, moved)
      {'sources': {'web': {'sha256': '1'}}}
    """
    names, ours = (
        {part["sha256"]: name for name, part in tree.get("sources", {}).items()}
        for tree in (saved, current)
    )
    if names.keys() != ours.keys() or not names:  # one is missing, and keeps its own name
        return current
    sources = current["sources"].values()
    return {**current, "sources": {names[part["sha256"]]: part for part in sources}}


def _in_order(parts: Iterable[Batch], positions: Int64[np.ndarray, " n"]) -> Batch:
    """Rows of several batches together; row `i` of all belongs at `positions[i]`."""
    order = np.argsort(positions)
    fields = zip(*parts, strict=True)
    return Batch(*(None if f[0] is None else np.concatenate(f)[order] for f in fields))
