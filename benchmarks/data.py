"""Throughput from text to tokens and from tokens to batches: does a step ever wait for data?

    python -m benchmarks.data
    python -m benchmarks.data --megabytes 4 --json benchmarks/results/data.json

The text is the source code of Python's standard library, as JSON lines. Waiting time is measured in
a loop whose steps sleep, with batches made ahead in a thread as in training. The processes
of `prepare` import this file, so `report`, which loads JAX, is imported only to report.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from seq1f1b_jax.data import Prefetcher, SequenceData, load_corpus, make_data
from seq1f1b_jax.data.packing import pack
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.data.text import stdlib_files
from seq1f1b_jax.data.tokenizer.train import train_on_texts

VOCAB_SIZE = 8192
SEQ_LEN, SEQUENCES = 4096, 8
STEP_SECONDS = 0.05
PACKED_DOCUMENTS, PACKED_SEQ_LEN = 1_000_000, 8192


def write_text(path: Path, num_bytes: int) -> Sequence[str]:
    """Write functions and classes of the standard library as JSON lines; also return them."""
    texts, size = [], 0
    for file in stdlib_files():
        for text in file.read_text(encoding="utf-8").split("\n\n\n"):
            if text and size < num_bytes:
                texts.append(text)
                size += len(text.encode())
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def time_prepare(job: PrepareJob, rounds: int) -> list[float]:
    """Tokens/s of making the same folder several times."""
    rates = []
    for index in range(rounds):
        began = time.perf_counter()
        meta = prepare(replace(job, to=job.to.with_name(f"{job.to.name}-{index}")))
        rates.append(meta.num_tokens / (time.perf_counter() - began))
    return rates


def time_batches(data: SequenceData, rounds: int, steps: int = 20) -> list[float]:
    """Tokens/s of making batches one after the other."""
    rates = []
    for index in range(rounds):
        began = time.perf_counter()
        for step in range(index * steps, (index + 1) * steps):
            batch = data.batch(step, num_microbatches=SEQUENCES, microbatch_size=1)
        rates.append(steps * batch.tokens.size / (time.perf_counter() - began))
    return rates


def time_waiting(data: SequenceData, rounds: int, steps: int = 15) -> list[float]:
    """Seconds that a loop waited for batches over the seconds of its steps."""

    def make(step: int):
        return data.batch(step, num_microbatches=SEQUENCES, microbatch_size=1)

    fractions = []
    for index in range(rounds):
        with Prefetcher(make, range(index * steps, (index + 1) * steps)) as batches:
            next(batches)  # the first cannot overlap with a step
            waited = batches.waited_seconds
            for _ in batches:
                time.sleep(STEP_SECONDS)
            fractions.append((batches.waited_seconds - waited) / ((steps - 1) * STEP_SECONDS))
    return fractions


def time_packing() -> float:
    """Documents/s of packing documents of random lengths on one core."""
    lengths = np.random.default_rng(0).lognormal(6.5, 1.3, PACKED_DOCUMENTS).astype(np.int64) + 1
    began = time.perf_counter()
    pack(lengths.clip(max=PACKED_SEQ_LEN), PACKED_SEQ_LEN)
    return PACKED_DOCUMENTS / (time.perf_counter() - began)


def measure_prepare(folder: Path, num_bytes: int, rounds: int) -> dict[str, float]:
    """Both tokenizers, one and two processes; the loader uses the folder of the BPE."""
    texts = write_text(folder / "text.jsonl", num_bytes)
    (folder / "bpe").mkdir()
    train_on_texts(texts, VOCAB_SIZE).save(folder / "bpe")
    from benchmarks.common.report import median_and_spread, show

    rows, values = [], {}
    for name, tokenizer in {"bytes": "bytes", "bpe": str(folder / "bpe")}.items():
        for processes in (1, 2):
            to = folder / f"{name}-{processes}"
            source = [str(folder / "text.jsonl")]
            job = PrepareJob(source, to, tokenizer=tokenizer, processes=processes)
            rate, spread = median_and_spread(time_prepare(job, rounds))
            rows.append(
                {"tokenizer": name, "processes": processes, "tokens/s": round(rate),
                 "spread": spread}
            )
            values[f"prepare_{name}_tokens_per_second", processes] = rate
    show(f"prepare, {num_bytes / 1e6:g} MB of JSONL, start of the processes included", rows)
    return {
        name + ("" if processes == 1 else f"_{processes}_processes"): rate
        for (name, processes), rate in values.items()
    }


def measure_loader(folder: Path, rounds: int) -> dict[str, float]:
    """Windows and packed documents of the same tokens."""
    from benchmarks.common.report import median_and_spread, show

    corpus, rows, values = load_corpus(str(folder)), [], {"loader_wait_fraction": 0.0}
    for packing in ("windows", "documents"):
        data = make_data(corpus, seq_len=SEQ_LEN, eval_fraction=0.05, seed=0, packing=packing)
        rate, spread = median_and_spread(time_batches(data, rounds))
        waited = statistics.median(time_waiting(data, rounds))
        rows.append(
            {"packing": packing, "tokens/s": round(rate), "spread": spread,
             "waiting over step": waited, "fill rate": data.fill_rate}
        )
        short = "packed" if packing == "documents" else packing
        values |= {f"loader_{short}_tokens_per_second": rate, "fill_rate": data.fill_rate}
        values["loader_wait_fraction"] = max(waited, values["loader_wait_fraction"])
    size = f"{SEQUENCES} sequences of {SEQ_LEN}"
    show(f"loader, batches of {size}; waiting beside steps of {1e3 * STEP_SECONDS:g} ms", rows)
    return values


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=12, help="of text (12)")
    parser.add_argument("--rounds", type=int, default=3, help="of every figure (3)")
    parser.add_argument("--json", metavar="FILE", help="also write the last line here")
    options = parser.parse_args(arguments)
    from benchmarks.common.report import finish, show

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = measure_prepare(folder, int(options.megabytes * 1e6), options.rounds)
        values |= measure_loader(folder / "bpe-1-0", options.rounds)
    values["packing_documents_per_second"] = time_packing()
    rows = [{"documents": PACKED_DOCUMENTS, "documents/s": values["packing_documents_per_second"]}]
    show(f"packing into sequences of {PACKED_SEQ_LEN}, one core", rows)
    finish(values, path=options.json)


if __name__ == "__main__":
    main()
