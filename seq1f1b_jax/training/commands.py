"""What a trained model is for: evaluate it, sample from it, export it."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from rich.console import Console

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data import Batch, MixedData, SequenceData
from seq1f1b_jax.data.tokenizer import TOKENIZER, save_as_json
from seq1f1b_jax.host.progress import waiting
from seq1f1b_jax.inference.sampling import chat_prompt, sample_text, text_prompt
from seq1f1b_jax.models.hf import export as write_checkpoint
from seq1f1b_jax.models.hf.lora.peft import write_adapter
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.evaluation import (
    HeldOut,
    Part,
    bigram_losses,
    evaluate_parts,
    held_out_parts,
    make_evaluation,
)
from seq1f1b_jax.training.evaluation.sources import weights_of
from seq1f1b_jax.training.job import Job, Model, check_alike, make_parts, origin_of_run, use_model
from seq1f1b_jax.training.preview.header import source_notes
from seq1f1b_jax.training.setup import make_setup

BAR_WIDTH = 40
PROMPT_TOKENS = 16
SAMPLE_PROMPT = {"stdlib": "def "}
SAMPLE_TEMPERATURE, SAMPLE_TOP_P = 0.8, 0.95


def evaluate(job: Job, *, num_sequences: int | None = None) -> int:
    """Held-out loss of the newest checkpoint, through the pipeline, as a whole and by position."""
    setup, data = make_parts(job)
    check_alike(job, data)
    parts = held_out_parts(setup, data, num_sequences or job.config.train.eval_sequences)
    for note in source_notes(job.config, job.source):
        job.say(f"note: {note}")
    model, params = use_model(
        job, setup, lambda model: (model, setup.pipeline.from_canonical(model.params))
    )
    shown = partial(waiting, console=Console(stderr=job.group.is_first, highlight=False))
    losses = evaluate_parts(make_evaluation(setup, waiting=shown), params, parts=parts)
    held_out, loss = losses.all, losses.all.mean
    tokens = round(float(held_out.counts.sum()))
    text = f"{model.name}: held-out loss {loss:.4f} nats per token over {tokens:,} tokens"
    job.say(f"{text} of {sum(count_sequences(part.batches) for part in parts):,} sequences")
    for name, value in losses.by_source.items():
        print(f"  {name}: {value:.4f}")
    text = f"perplexity {math.exp(min(loss, 700)):.3f}, bits per token {loss / math.log(2):.4f}"
    if num_bytes := count_bytes(data, parts):
        text += f", bits per byte {loss * tokens / math.log(2) / num_bytes:.4f}"
    print(text)
    print(f"bigram model on the same text: {bigram_losses(parts):.4f} nats per token")
    print("\nloss by the tokens that came before, nats per token")
    print("\n".join(position_rows(held_out)))
    return 0


def generate(
    job: Job, *, prompt: str, num_tokens: int, temperature: float, top_p: float, seed: int,
    chat: bool = False, system: str | None = None,
) -> int:
    """Text sampled from the newest checkpoint, written as it is sampled.

    With `chat` the prompt is the user's turn, and only the assistant's is written.
    """
    setup = make_setup(job.config, job.stage)
    model, params = use_model(
        job, setup, lambda model: (model, jax.tree.map(np.asarray, model.params))
    )
    tokenizer = model.tokenizer
    write = partial(chat_prompt, system=system) if chat else text_prompt
    sample_text(
        job.stage, params, write(prompt, tokenizer), num_tokens=num_tokens, seed=seed,
        temperature=temperature, top_p=top_p, tokenizer=tokenizer, output=job.output,
    )
    return 0


def sample_at_end(
    job: Job, params: Params, data: SequenceData | MixedData, held_out: Batch
) -> None:
    """Print a few lines from the trained model, which continue its text or a word of Python."""
    train, tokenizer = job.config.train, data.corpus.load_tokenizer()
    ids = held_out.tokens[0, 0, :PROMPT_TOKENS].tolist()
    words = " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)
    try:
        print("\nsampled from the trained model:")
        sample_text(
            job.stage, params,
            text_prompt(SAMPLE_PROMPT.get(data.corpus.kind, words), tokenizer),
            num_tokens=train.sample_tokens, seed=train.seed, temperature=SAMPLE_TEMPERATURE,
            top_p=SAMPLE_TOP_P, tokenizer=tokenizer, output=job.output,
        )
    except ValueError as error:  # more tokens than learned positions: the run itself is complete
        print(f"none: {error}; set a smaller --train.sample_tokens")


def export(job: Job, *, to: str, dtype: str, adapter: bool = False) -> int:
    """The newest checkpoint as a folder that `transformers` loads, adapters merged into it.

    With `adapter` they are written alone, as PEFT reads them.
    """
    if adapter:
        return export_adapter(job, to=to, dtype=dtype)
    setup = make_setup(job.config, job.stage)

    def write(model: Model) -> Model:
        write_export(job, model, to, dtype=dtype)
        return model

    model = use_model(job, setup, write)
    job.say(f"{model.name} is in {to}: config.json and safetensors of {dtype}")
    if model.tokenizer is None:
        print(f"without {TOKENIZER}: the model was trained on token ids")
    return 0


def write_export(job: Job, model: Model, to: str, *, dtype: str) -> None:
    """Write a model, with the files beside the weights that the run began with."""
    origin, tokenizer = origin_of_run(job), model.tokenizer
    stops = () if tokenizer is None else tokenizer.stops
    seen = max(job.config.data.seq_len, (origin and origin.context_length) or 0)
    with TemporaryDirectory() as temporary:
        file = None if tokenizer is None else save_as_json(tokenizer, Path(temporary))
        write_checkpoint(
            model.params, job.stage, to, dtype=dtype, tokenizer_file=file, origin=origin,
            context_length=seen, eos=list(stops) if len(stops) > 1 else tokenizer and tokenizer.eos,
            say=print,
        )


def export_adapter(job: Job, *, to: str, dtype: str) -> int:
    """The adapters of the newest checkpoint as a folder that PEFT loads.

    Raises:
      UserError: there are none, they are not all that was trained, or what they adapt is nowhere.
    """
    config = job.config
    if config.lora.rank and config.train.trainable:
        raise UserError(
            f"train.trainable={list(config.train.trainable)} trained more than the adapters, which "
            "--adapter would leave out; export the whole model, without --adapter"
        )
    if config.lora.rank and config.model.source is None:
        raise UserError(
            "the run began from fresh weights, and adapters alone are of use only beside a "
            "checkpoint of these; export the whole model, without --adapter"
        )
    setup, origin = make_setup(config, job.stage), origin_of_run(job)

    def write(model: Model) -> Model:
        write_adapter(
            model.params, job.stage, to, base=config.model.source, dtype=dtype,
            architecture=origin and origin.architecture,
        )
        return model

    model = use_model(job, setup, write)
    job.say(
        f"the adapters of {model.name} are in {to}: adapter_config.json and safetensors of "
        f"{dtype}, for PEFT, beside {config.model.source}"
    )
    return 0


def count_bytes(data: SequenceData | MixedData, parts: Sequence[Part]) -> float:
    """Bytes of text that the targets stand for, weighed as they are; 0 where that is unknown."""
    tokenizer = data.corpus.load_tokenizer()
    if tokenizer is None:
        return 0
    return sum(
        weight * sum(tokenizer.count_bytes(batch.targets) for batch in part.batches)
        for weight, part in zip(weights_of(parts), parts, strict=True)
    )


def count_sequences(batches: tuple[Batch, ...]) -> int:
    """Sequences with a target."""
    return sum(int((batch.targets >= 0).any(axis=-1).sum()) for batch in batches)


def position_rows(held_out: HeldOut) -> list[str]:
    r"""A line for every bin of positions, with a bar as long as its loss.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.training.evaluation import HeldOut
      >>> held_out = HeldOut(np.r_[np.full(64, 3.0), np.full(64, 1.5)], np.ones(128, int))
      >>> print(*position_rows(held_out), sep="\n")
          0 ...  63   3.0000  ########################################
         64 ... 127   1.5000  ####################
    """
    rows = list(held_out.by_position())
    highest = max((loss for *_, loss in rows), default=0) or 1
    width = len(str(held_out.counts.size - 1))
    return [
        f"  {first:>{width}} ... {end - 1:>{width}}   {loss:.4f}  "
        + "#" * round(BAR_WIDTH * loss / highest)
        for first, end, loss in rows
    ]
