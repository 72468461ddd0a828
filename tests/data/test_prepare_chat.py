"""`prepare --messages` and `--prompt --answer`: what is read, refused and kept, and the batches."""

import csv
import json

import numpy as np
import pytest

from seq1f1b_jax.data import load_corpus, load_tokenizer, make_data
from seq1f1b_jax.data.__main__ import main
from seq1f1b_jax.data.folder import read_meta
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from tests.data.chats import (
    CHATML,
    FORGETFUL,
    MARKED,
    conversations,
    save_tokenizer,
    turns,
    write_chats,
)
from tests.data.test_prepare import killed_after

CHATS = conversations(30)


@pytest.fixture
def model(tmp_path):
    return str(save_tokenizer(tmp_path / "model"))


def job(source, to, model, **settings):
    given = {"messages": "messages", **settings}
    return PrepareJob([str(source)], to, model, **given)


def contents(folder):
    """Tokens and mask of every document."""
    corpus = load_corpus(str(folder))
    cuts = corpus.documents[1:-1]
    parts = (np.split(array, cuts) for array in (corpus.tokens, corpus.loss_mask))
    return [(ids.tolist(), mask.tolist()) for ids, mask in zip(*parts, strict=True)]


def write_as(path, chats):
    """A conversation in each record, as the name of the file asks for."""
    if path.suffix == ".json":
        path.write_text(json.dumps([{"messages": chat} for chat in chats]))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["messages"], *([json.dumps(chat)] for chat in chats)])
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
        from pyarrow import parquet

        extra = [[turn | {"tool_calls": None} for turn in chat] for chat in chats]
        parquet.write_table(arrow.table({"messages": extra}), path, row_group_size=7)
    else:
        write_chats(path, chats)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_every_format_gives_the_same(tmp_path, model, name, small_portions):
    meta = prepare(job(write_as(tmp_path / "a.jsonl", CHATS), tmp_path / "lines", model))
    other = prepare(job(write_as(tmp_path / name, CHATS), tmp_path / "other", model))
    assert contents(tmp_path / "other") == contents(tmp_path / "lines")
    assert (other.num_counted, other.loss_sha256) == (meta.num_counted, meta.loss_sha256)
    assert (meta.version, meta.loss_on, meta.special_tokens) == (2, "messages", "keep")
    assert read_meta(tmp_path / "lines" / "meta.json") == meta


def test_processes_and_kills_change_nothing(tmp_path, model, small_portions):
    source = write_chats(tmp_path / "a.jsonl", CHATS)
    whole = prepare(job(source, tmp_path / "whole", model, processes=2))
    with pytest.raises(KeyboardInterrupt):
        prepare(job(source, tmp_path / "out", model), advance=killed_after(5))
    for name in ("tokens.bin", "loss_mask.bin", "lengths.bin"):
        with (tmp_path / "out.partial" / name).open("ab") as file:
            file.write(b"half")
    assert prepare(job(source, tmp_path / "out", model)) == whole
    for name in ("tokens.bin", "loss_mask.bin", "documents.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_date_of_a_template_is_that_of_the_first_run(tmp_path, small_portions):
    model = save_tokenizer(tmp_path / "model", "{{ strftime_now('%H:%M:%S.%f') }}" + CHATML)
    source = write_chats(tmp_path / "a.jsonl", CHATS)
    with pytest.raises(KeyboardInterrupt):
        prepare(job(source, tmp_path / "out", str(model)), advance=killed_after(9))
    prepare(job(source, tmp_path / "out", str(model)))
    tokenizer = load_tokenizer(model)
    times = {tokenizer.decode(ids).partition("<")[0] for ids, _ in contents(tmp_path / "out")}
    assert len(times) == 1 and len(times.pop()) == 15


def test_conversations_that_cannot_be_masked_are_counted(tmp_path, capsys):
    model = str(save_tokenizer(tmp_path / "model", FORGETFUL))
    chats = [turns("a", "b"), turns("a", "x/b", "c", "y/d"), [], turns("only the user"), 7]
    source = write_chats(tmp_path / "a.jsonl", chats)
    command = ["prepare", str(source), "--messages=messages", "--tokenizer", model]
    command += ["--processes=1", "--to", str(tmp_path / "out")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "a.jsonl:2: the chat template writes turn 1, or one before it, otherwise" in told
    assert "leave such documents out with --skip-bad" in told and told.count("\n") == 1
    assert main([*command, "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert "left out 3, the first: " in shown.err and "a.jsonl:2: " in shown.err
    left = r"1 empty, 1 that could not be read, 2 without an exact loss mask"
    assert f"left out        {left}" in shown.out


def test_the_summary_tells_the_share_and_spelled_tokens(tmp_path, model, capsys):
    chats = [turns("be <|im_end|> </s>", "not"), turns("or", [{"type": "text", "text": "<s>"}])[:1]]
    chats[1] += [{"role": "assistant", "content": "that"}]
    source = write_chats(tmp_path / "a.jsonl", chats)
    assert main(["prepare", str(source), "--to", str(tmp_path / "out"), "--tokenizer", model,
                 "--messages", "messages", "--processes", "1"]) == 0  # fmt: skip
    shown, corpus = capsys.readouterr().out, load_corpus(str(tmp_path / "out"))
    share = corpus.num_counted / corpus.tokens.size
    counted = f"{corpus.num_counted} tokens, {share:.1%}"
    assert f"loss            on the assistant's turns: {counted}" in shown
    assert "2 spelled in the documents, kept as special tokens, as if the chat template" in shown


def test_prompts_and_answers_are_encoded_apart(tmp_path, capsys):
    model = str(save_tokenizer(tmp_path / "model", None, bos_first=True))
    rows = [("to be", " or not"), ("", "that"), ("is", ""), ("the </s>", "question")]
    lines = "".join(json.dumps({"q": q, "a": a}) + "\n" for q, a in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    command = ["prepare", str(tmp_path / "a.jsonl"), "--to", str(tmp_path / "out"), "--prompt=q",
               "--answer=a", "--tokenizer", model, "--processes=1"]  # fmt: skip
    assert main(command) == 0
    assert "1 spelled in the documents, read as ordinary text" in capsys.readouterr().out
    tokenizer = load_tokenizer(model)
    (bos,), eos = tokenizer.prefix, tokenizer.eos

    def expected(prompt, answer):
        ids = [tokenizer.encode(text, specials=False) for text in (prompt, answer)]
        mask = [0] * (1 + len(ids[0])) + [1] * (len(ids[1]) + 1)
        return [bos, *ids[0], *ids[1], eos], mask

    assert contents(tmp_path / "out") == [expected(*row) for row in rows if row[1]]
    meta = read_meta(tmp_path / "out" / "meta.json")
    assert (meta.num_empty, meta.loss_on, meta.special_tokens) == (1, "answer", "text")


@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_targets_that_do_not_count_are_minus_one(tmp_path, model, packing):
    prepare(job(write_chats(tmp_path / "a.jsonl", CHATS), tmp_path / "out", model))
    corpus = load_corpus(str(tmp_path / "out"))
    sizes = dict(seq_len=48, eval_fraction=0.2, seed=0, packing=packing)
    data = make_data(corpus, **sizes)
    plain = make_data(load_corpus(str(tmp_path / "out")), **sizes)
    object.__setattr__(plain.corpus, "loss_mask", None)
    every = np.sort(np.concatenate([data.split.train, data.split.held_out]))
    ours, all_count = data.sequences(every), plain.sequences(every)
    np.testing.assert_array_equal(ours.tokens, all_count.tokens)
    counted = ours.targets >= 0
    np.testing.assert_array_equal(ours.targets[counted], all_count.targets[counted])
    if packing == "documents":
        assert counted.sum() == corpus.num_counted
    else:
        used = corpus.loss_mask[: every.size * 49].reshape(-1, 49)[:, 1:]
        np.testing.assert_array_equal(counted, used == 1)
    assert 0 < counted.sum() < (all_count.targets >= 0).sum()
    assert "loss_sha256" in data.identity


def test_a_mask_is_not_overlooked(tmp_path, model):
    prepare(job(write_chats(tmp_path / "a.jsonl", CHATS), tmp_path / "out", model))
    with pytest.raises(ValueError, match="not all of its tokens count for the loss; give the fold"):
        load_corpus(str(tmp_path / "out" / "tokens.bin"))
    mask = tmp_path / "out" / "loss_mask.bin"
    content = mask.read_bytes()
    mask.write_bytes(bytes(1 - byte for byte in content))
    with pytest.raises(ValueError, match="loss_mask.bin has sha256 .*prepare the folder again"):
        load_corpus(str(tmp_path / "out"))
    mask.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"loss_mask.bin has \d+ bytes and meta.json says"):
        load_corpus(str(tmp_path / "out"))
    mask.unlink()
    with pytest.raises(ValueError, match="cannot read .*loss_mask.bin"):
        load_corpus(str(tmp_path / "out"))


def test_another_template_makes_other_data(tmp_path, model):
    source = write_chats(tmp_path / "a.jsonl", CHATS)
    (tmp_path / "mine.jinja").write_text(MARKED)
    meta = prepare(job(source, tmp_path / "out", model))
    with pytest.raises(ValueError, match="holds other data, or other tokens"):
        prepare(job(source, tmp_path / "out", model, chat_template=str(tmp_path / "mine.jinja")))
    other = job(source, tmp_path / "other", model, chat_template=str(tmp_path / "mine.jinja"))
    assert prepare(other).num_counted < meta.num_counted
    assert load_tokenizer(tmp_path / "other").chat.templates == {"default": MARKED}


M = ["--messages", "messages"]
BAD = {
    "bytes": (M, "bytes have no special tokens to tell turns apart"),
    "no template": ([*M, "--tokenizer", "PLAIN"], "has no chat template; give one with --chat-te"),
    "no such template": ([*M, "--tokenizer", "MODEL", "--chat-template", "rag"], "rag is no file"),
    "no template at all": (
        [*M, "--tokenizer", "MODEL", "--chat-template", "BROKEN"], "chat template cannot be read"
    ),
    "a trained tokenizer": ([*M, "--train-bpe", "300"], "a trained tokenizer has no chat"),
    "an end": ([*M, "--eos", "</s>"], "the chat template ends a conversation"),
    "specials as text": ([*M, "--special-tokens", "text"], "text would leave none"),
    "a text": (["TEXT", *M, "--tokenizer", "MODEL"], "only JSON lines, JSON, CSV and parquet"),
    "two kinds": ([*M, "--key", "text"], "--key and --messages both name what a document is"),
    "no answer": (["--prompt", "q"], "--prompt goes with --answer"),
    "no prompt": (["--answer", "q"], "--answer goes with --prompt"),
    "a template for texts": (["--chat-template", "x"], "name their field: --messages"),
    "no such field": (["--messages", "chat", "--tokenizer", "MODEL"], "no field 'chat', but 'mess"),
    "no list": (["--messages", "id", "--tokenizer", "MODEL"], "'id' is 7, not a list of mess"),
    "no role": (["--messages", "odd", "--tokenizer", "MODEL"], "message 0 has no role that is"),
    "odd content": (["--messages", "odder", "--tokenizer", "MODEL"], "message 0 has the content 7"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "told"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(tmp_path, model, capsys, options, told):
    record = {"messages": turns("a", "b"), "id": 7, "odd": [{"content": "x"}]}
    record["odder"] = [{"role": "user", "content": 7}]
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "broken.jinja").write_text("{% for %}")
    paths = {"MODEL": model, "PLAIN": str(save_tokenizer(tmp_path / "plain", None))}
    paths |= {"TEXT": str(tmp_path / "a.txt"), "BROKEN": str(tmp_path / "broken.jinja")}
    command = ["prepare", str(tmp_path / "a.jsonl"), *(paths.get(word, word) for word in options)]
    assert main([*command, "--to", str(tmp_path / "out"), "--processes", "1"]) == 2
    shown = capsys.readouterr().err
    assert told in shown and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()
