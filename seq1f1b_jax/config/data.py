"""The settings of the data, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """The text.

    Attributes:
      source: `stdlib` (the source code of Python's standard library), or the path of a text file,
        of a folder of text files, of a `.bin` file of token ids, or of a folder that
        `python -m seq1f1b_jax.data prepare` has written.
      sources: several such instead, each with its weight: sequences are drawn in this ratio. A
        weight of 0 holds a source back; weights may change when a run is resumed.
      seq_len: tokens of one training sequence.
      packing: `windows` cuts the text into sequences wherever they end; `documents` fills them with
        whole documents that do not attend to each other.
      long_documents: a document longer than a sequence is `split` into pieces, or left out by
        `drop`.
      restart_positions: whether positions count from the first token of each packed document.
      microbatch_size: sequences in one microbatch, on all pipelines together.
      eval_fraction: part of the tokens held out for evaluation.
      token_dtype: type of the ids in a `.bin` file.
      seed: seed of the order of the sequences.
    """

    source: str = "stdlib"
    sources: dict[str, float] | None = None
    seq_len: int = 1024
    packing: Literal["windows", "documents"] = "windows"
    long_documents: Literal["split", "drop"] = "split"
    restart_positions: bool = True
    microbatch_size: int = 1
    eval_fraction: float = 0.05
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    seed: int = 0


def data_problems(data: DataConfig) -> Iterator[str]:
    """What is wrong with the settings of the data alone, one line each.

    Example:
      >>> list(data_problems(DataConfig(sources={"a": 1, "b": -1})))
      ['data.sources: the weight of b is -1; use a number from 0 on']
    """
    fraction = data.eval_fraction
    if not 0 < fraction <= 0.5:
        yield f"data.eval_fraction={fraction}: must be above 0 and at most 0.5; use 0.05"
    if not data.source.strip():
        yield "data.source is empty; use stdlib, or the path of a text file, folder or .bin file"
    if data.sources is None:
        return
    for source, weight in data.sources.items():
        if not source.strip():
            yield "data.sources has an empty name; name a text file, folder or .bin file"
        if not 0 <= weight < math.inf:
            yield f"data.sources: the weight of {source} is {weight}; use a number from 0 on"
    if not any(data.sources.values()):
        yield (
            "data.sources has no source with a weight above 0; use {A: 0.7, B: 0.3}, or set "
            "data.source alone"
        )
