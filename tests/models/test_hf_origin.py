"""What lay beside a checkpoint's weights goes back with those that were made from them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from seq1f1b_jax.config import Config, TrainConfig, UserError
from seq1f1b_jax.data import load_tokenizer
from seq1f1b_jax.data.tokenizer.base import Chat
from seq1f1b_jax.models.hf import export, keep_origin, kept_origin, origin_of, read_source
from seq1f1b_jax.models.hf.qwen2_tokenizer import END_OF_TEXT, PATTERN, is_rebuilt_alike
from seq1f1b_jax.training.commands import write_export
from seq1f1b_jax.training.job import Job, Model
from tests.models.hf_cases import STAGES, parameters

STAGE = STAGES["llama"]
CONFIG = {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "model_max_length": 9}
GENERATION = {"eos_token_id": [2, 7], "bos_token_id": 1, "temperature": 0.6, "top_p": 0.9}
GOES = {
    "tokenizer_config.json": json.dumps(CONFIG),
    "special_tokens_map.json": '{"pad_token": "</s>"}',
    "added_tokens.json": "{}",
    "chat_template.jinja": "{{ bos_token }}{{ messages }}",
    "additional_chat_templates/tools.jinja": "{{ tools }}",
    "generation_config.json": json.dumps(GENERATION),
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2\n",
    "tokenizer.model": "a binary file",
    "LICENSE.txt": "as is",
    "NOTICE": "of others",
}
STAYS = {
    "README.md": "its figures", "training_args.bin": "a pickle", "modeling.py": "code",
    "onnx/model.onnx": "weights", "trainer_state.json": "{}", "config.json.bak": "{}",
}


def small_tokenizer(*added, vocab=("a", "b", "c"), cutters=None, normalizer=None):
    """A byte-level BPE of a few tokens."""
    inner = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(vocab)}, []))
    inner.pre_tokenizer = cutters or pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if normalizer:
        inner.normalizer = normalizer
    inner.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in added])
    return inner


@pytest.fixture
def theirs(tmp_path):
    """A checkpoint with everything beside its weights, and much that is not its own."""
    folder = export(parameters(STAGE), STAGE, tmp_path / "theirs", special_tokens={"eos": 2})
    small_tokenizer("<s>", "</s>").save(str(folder / "tokenizer.json"))
    for name, content in (GOES | STAYS).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_everything_beside_the_weights_goes_back_as_it_lay(theirs, tmp_path):
    source = read_source(theirs)
    assert source.special_tokens == {"eos": 2, "bos": 1}  # the config's first, then generation's
    ours = export(parameters(STAGE), STAGE, tmp_path / "ours", origin=origin_of(source),
                  dtype="bfloat16")
    assert names(ours) == {*GOES, "tokenizer.json", "config.json", "model.safetensors"}
    for name in (*GOES, "tokenizer.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    config = json.loads((ours / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == (2, 1)
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"


@pytest.mark.parametrize("given, written", [(None, None), ("{{ ours }}", "{{ ours }}")])
def test_the_template_that_a_run_was_trained_with_wins(theirs, tmp_path, given, written):
    tokenizer = load_tokenizer(theirs)
    tokenizer.chat = Chat({} if given is None else {"default": given})
    (tmp_path / "run").mkdir()
    tokenizer.save(tmp_path / "run")
    origin = origin_of(read_source(theirs))
    ours = export(parameters(STAGE), STAGE, tmp_path / "ours", origin=origin,
                  tokenizer_file=tmp_path / "run" / "tokenizer.json")  # fmt: skip
    template = (ours / "chat_template.jinja").read_text()
    assert template == (written or GOES["chat_template.jinja"])


def test_an_id_without_a_row_stays_out_of_the_config(theirs, tmp_path):
    """transformers builds the table around the pad's id, and fails where it lies outside."""
    (theirs / "generation_config.json").write_text('{"pad_token_id": 11, "eos_token_id": [2, 11]}')
    ours = export(parameters(STAGE), STAGE, tmp_path / "o", origin=origin_of(read_source(theirs)))
    config = json.loads((ours / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"]) == (None, 2)
    assert '"pad_token_id": 11' in (ours / "generation_config.json").read_text()


def test_a_run_keeps_what_it_needs_when_the_source_is_gone(theirs, tmp_path):
    source = read_source(theirs)
    keep_origin(origin_of(source), tmp_path / "run" / "source")
    before = {name: (theirs / name).read_bytes() for name in (*GOES, "tokenizer.json")}
    shutil.rmtree(theirs)
    kept = kept_origin(tmp_path / "run" / "source")
    assert kept.special_tokens == {"eos": 2, "bos": 1}
    ours = export(parameters(STAGE), STAGE, tmp_path / "ours", origin=kept)
    assert {name: (ours / name).read_bytes() for name in before} == before
    assert kept_origin(tmp_path / "run") is None


def test_older_weights_never_go_along(theirs, tmp_path):
    for name in ("pytorch_model.bin", "model.gguf", "model-00001-of-00002.safetensors"):
        (theirs / name).write_text("old")
    ours = export(parameters(STAGE), STAGE, tmp_path / "ours", max_shard_bytes=3000,
                  origin=origin_of(read_source(theirs)))
    index = json.loads((ours / "model.safetensors.index.json").read_text())
    assert names(ours) == {
        *GOES, "tokenizer.json", "config.json", "model.safetensors.index.json",
        *index["weight_map"].values(),
    }


def test_of_a_checkpoint_without_a_tokenizer_the_licences_go_with_another_one(theirs, tmp_path):
    (theirs / "tokenizer.json").unlink()
    origin = origin_of(read_source(theirs))
    file = tmp_path / "own" / "tokenizer.json"
    file.parent.mkdir()
    small_tokenizer("<e>").save(str(file))
    ours = export(parameters(STAGE), STAGE, tmp_path / "ours", origin=origin, tokenizer_file=file,
                  eos=3, context_length=64)
    assert names(ours) == {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "LICENSE.txt", "NOTICE",
    }
    generation = json.loads((ours / "generation_config.json").read_text())
    assert generation == {"_from_model_config": True, "eos_token_id": 3}
    assert json.loads((ours / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, "eos_token": "<e>",
    }
    alone = export(parameters(STAGE), STAGE, tmp_path / "alone", origin=origin)
    assert names(alone) == {*GOES, "config.json", "model.safetensors"}


def test_a_length_that_the_model_has_outgrown_is_raised(theirs, tmp_path):
    config = json.loads((theirs / "config.json").read_text()) | {"max_position_embeddings": 9}
    (theirs / "config.json").write_text(json.dumps(config))
    origin = origin_of(read_source(theirs))
    longer = export(
        parameters(STAGE), STAGE, tmp_path / "longer", origin=origin, context_length=32)
    told = json.loads((longer / "tokenizer_config.json").read_text())
    assert told == CONFIG | {"model_max_length": 32}


def test_the_class_that_the_config_names_goes_back(theirs, tmp_path):
    config = json.loads((theirs / "config.json").read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
    (theirs / "config.json").write_text(json.dumps(config))
    ours = export(parameters(STAGE), STAGE, tmp_path / "o", origin=origin_of(read_source(theirs)))
    assert json.loads((ours / "config.json").read_text())["tokenizer_class"] == "GPT2Tokenizer"


def test_ids_that_are_none_are_refused(theirs):
    (theirs / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(UserError, match="generation_config.json: eos_token_id='</s>' is neither"):
        read_source(theirs)


def exported(run, tokenizer, source, folder):
    config = Config(train=TrainConfig(output_dir=str(run)))
    job = Job(config, STAGE, source, watchdog=None, output=None)
    write_export(job, Model("", parameters(STAGE), tokenizer), str(folder), dtype="float32")
    return folder


def test_the_command_takes_the_runs_copy_once_it_has_begun(theirs, tmp_path, monkeypatch):
    """A source that is named later on, or that changed meanwhile, is not the run's."""
    source, run = read_source(theirs), tmp_path / "run"
    tokenizer = load_tokenizer(theirs)
    fresh = exported(run, tokenizer, source, tmp_path / "fresh")
    assert names(fresh) == {*GOES, "tokenizer.json", "config.json", "model.safetensors"}
    keep_origin(origin_of(source), run / "source")
    monkeypatch.setattr("seq1f1b_jax.training.job.committed_steps", lambda folder: [3])
    (theirs / "chat_template.jinja").write_text("another one")
    for given in (source, None):
        ours = exported(run, tokenizer, given, tmp_path / f"ours {given is None}")
        assert (ours / "chat_template.jinja").read_text() == GOES["chat_template.jinja"]
    shutil.rmtree(run / "source")  # a run that began from fresh weights
    bare = exported(run, tokenizer, source, tmp_path / "bare")
    assert names(bare) == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "generation_config.json",
    }


def test_bytes_go_as_a_tokenizer_of_others(tmp_path):
    ours = exported(tmp_path / "run", load_tokenizer("bytes"), None, tmp_path / "ours")
    text = "naïve Ā\n  東京 <s>"
    assert load_tokenizer(ours).encode(text) == list(text.encode())
    assert load_tokenizer(ours).decode(list(text.encode())) == text
    assert json.loads((ours / "config.json").read_text())["eos_token_id"] == 0
    assert "eos_token" not in json.loads((ours / "tokenizer_config.json").read_text())


# ---- Qwen2, beside which transformers 5 rebuilds any tokenizer


def qwen2_cutters(pattern=PATTERN):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, level])


NFC = tokenizers.normalizers.NFC()
KINDS = {
    "qwen2's": (small_tokenizer(END_OF_TEXT, cutters=qwen2_cutters(), normalizer=NFC), True),
    "gpt2's": (small_tokenizer(END_OF_TEXT, normalizer=NFC), False),
    "another pattern": (
        small_tokenizer(END_OF_TEXT, cutters=qwen2_cutters(r"\s+|\S+"), normalizer=NFC), False),
    "no normalizer": (small_tokenizer(END_OF_TEXT, cutters=qwen2_cutters()), False),
    "no end of text": (small_tokenizer("<e>", cutters=qwen2_cutters(), normalizer=NFC), False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_beside_another_tokenizer_a_qwen2_is_written_as_the_llama_that_it_is(tmp_path, kind):
    inner, alike = KINDS[kind]
    stage, said = STAGES["qwen2"], []
    assert is_rebuilt_alike(json.loads(inner.to_str())) == alike
    inner.save(str(tmp_path / "tokenizer.json"))
    ours = export(parameters(stage), stage, tmp_path / "ours", say=said.append,
                  tokenizer_file=tmp_path / "tokenizer.json")
    source = read_source(ours)
    config = json.loads((ours / "config.json").read_text())
    assert config["model_type"] == ("qwen2" if alike else "llama")
    assert source.fields["output_bias"] == (not alike) and source.fields["qkv_bias"]
    assert len(said) == (not alike)
    name = "model.layers.4.self_attn.o_proj.bias"
    assert (name in source.tensors.tensors) == (not alike)
    if not alike:
        np.testing.assert_array_equal(source.tensors.read(name), np.zeros(12))
    as_it_lay = export(parameters(stage), stage, tmp_path / "again", origin=origin_of(source))
    assert json.loads((as_it_lay / "config.json").read_text())["model_type"] == "qwen2"


def test_a_qwen2_with_a_window_takes_no_other_tokenizer(tmp_path):
    stage = replace(STAGES["qwen2"], window=3)
    KINDS["gpt2's"][0].save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="qkv_bias=True and window=3 are a Qwen2 .* another"):
        export(parameters(stage), stage, tmp_path / "ours",
               tokenizer_file=tmp_path / "tokenizer.json")
    assert not (tmp_path / "ours").exists()
