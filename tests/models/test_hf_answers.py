"""Loss on the assistant's turns, against torch's masked loss of one checkpoint (extra `hf`)."""

import warnings

import jax
import numpy as np
import pytest

from seq1f1b_jax.data import load_corpus, make_data
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import load_canonical, read_source
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import make_plan
from tests.data.chats import MARKED, conversations, save_tokenizer, write_chats

REASON = "needs the extra `hf`: pip install 'seq1f1b-jax[hf]'"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=REASON)
    transformers = pytest.importorskip("transformers", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
CHATS = conversations(200)
SEQ_LEN = 256
SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": SEQ_LEN,
    "tie_word_embeddings": True, "initializer_range": 0.3,
}  # fmt: skip
TOLERANCE = 1e-5  # float32 sums in another order


def their_loss(folder, chats):
    """Mean over all counted tokens of all conversations, one conversation at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    total, count = 0.0, 0
    for chat in chats:
        found = tokenizer.apply_chat_template(
            chat, return_assistant_tokens_mask=True, return_dict=True
        )
        ids, counted = (torch.tensor(found[name]) for name in ("input_ids", "assistant_masks"))
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].double()
        targets = torch.where(counted > 0, ids, -100)[1:]  # -100: torch leaves it out
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        count += int((targets >= 0).sum())
    return total / count, count


def test_loss_on_answers(tmp_path):
    folder = save_tokenizer(tmp_path / "model", MARKED)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    model.save_pretrained(folder)
    source = write_chats(tmp_path / "a.jsonl", CHATS)
    prepare(PrepareJob([str(source)], tmp_path / "out", str(folder), messages="messages"))
    corpus = load_corpus(str(tmp_path / "out"), vocab_size=SIZES["vocab_size"])
    data = make_data(
        corpus, seq_len=SEQ_LEN, eval_fraction=0.1, seed=0, packing="documents"
    )
    found = read_source(folder)
    stage = build_stage(**found.fields)
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=1, num_chunks=2)
    options = ExecutorOptions(compute_dtype="float32", restart_positions=True)
    step = build_step(stage, plan, make_mesh(2), chunk_lengths=(160, 96), options=options)
    every = data.sequences(np.arange(data.split.train.size + data.split.held_out.size))
    batch = [part[None] for part in every]
    params = step.from_canonical(load_canonical(found, stage))
    expected, count = their_loss(str(folder), CHATS)
    assert int((every.targets >= 0).sum()) == count == corpus.num_counted
    loss = float(jax.jit(step.loss)(params, *batch))
    assert abs(loss / expected - 1) <= TOLERANCE
