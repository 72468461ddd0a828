"""Exports beside tokenizers, as transformers' AutoTokenizer loads them (extra `hf`)."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.data import load_tokenizer
from seq1f1b_jax.data.tokenizer import save_as_json
from seq1f1b_jax.inference import logits
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export, load_canonical, origin_of, read_source
from tests.data.test_tokenizer import BPE, TEXT
from tests.models.hf_cases import parameters
from tests.models.test_hf_origin import NFC, qwen2_cutters, small_tokenizer

REASON = "needs the extra `hf`: pip install 'seq1f1b-jax[hf]'"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=REASON)
    transformers = pytest.importorskip("transformers", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours

SIZES = {"num_layers": 2, "model_dim": 16, "num_heads": 2, "mlp_dim": 24, "vocab_size": 300}
STAGES = {
    "llama": build_stage("llama", **SIZES),
    "llama, biases": build_stage("llama", **SIZES, qkv_bias=True, output_bias=True),
    "mistral": build_stage("llama", **SIZES, window=5),
    "qwen2": build_stage("llama", **SIZES, qkv_bias=True),
    "gpt2": build_stage("gpt", **SIZES, max_positions=64),
    "qwen3": build_stage("llama", **SIZES, qk_norm="head"),
    "smollm3": build_stage("llama", **SIZES, layer_pattern=["full", "unrotated"]),
    "ministral": build_stage("llama", **SIZES, layer_pattern=["window", "full"], window=5),
    "gemma3": build_stage(
        "llama", **SIZES, norm_placement="both", norm_offset=True, qk_norm="head",
        activation="gelu", embedding_scale=4.0, attention_scale=0.5,
    ),
    "olmo2": build_stage("llama", **SIZES, norm_placement="after", qk_norm="width"),
    "phi3": build_stage("llama", **SIZES, rotary_dim=4),
    "granite": build_stage("llama", **SIZES, attention_scale=0.5, logit_scale=0.5),
}
TEXTS = [
    TEXT, "", " ", "a", " two  spaces   and\ttabs \n\n\nlines\r\n", "isn't it? I'LL we've 'S",
    "12345 1,234.5 ½ ²", "naïve café \u0065\u0301 \u212b \u1e9b\u0323", "東京 🤖 한글 ไทย",
    "Ā \0 \x7f", "<|endoftext|> be<|endoftext|>", "_a_b /c/d  x=1;\n  def f(x):\n    return x",
    "Ġbe Ġ",
]


def byte_level(**settings):
    """A byte-level BPE of all bytes, some merges and the end of text."""
    letters = [BPE._inner.id_to_token(i) for i in range(1, 257)]
    return small_tokenizer("<|endoftext|>", vocab=letters, **settings)


def own(kind, folder):
    """A tokenizer of ours in a folder, and its file."""
    if kind == "qwen2's":
        byte_level(cutters=qwen2_cutters(), normalizer=NFC).save(str(folder / "tokenizer.json"))
        tokenizer = load_tokenizer(folder, eos="<|endoftext|>")
    else:
        tokenizer = {"trained": BPE, "bytes": load_tokenizer("bytes")}[kind]
    return tokenizer, save_as_json(tokenizer, folder)


@pytest.mark.parametrize("kind", ["trained", "bytes", "qwen2's"])
@pytest.mark.parametrize("family", STAGES)
def test_ids_are_ours_for_every_family_and_tokenizer(family, kind, tmp_path):
    (tmp_path / "own").mkdir()
    tokenizer, file = own(kind, tmp_path / "own")
    stage = STAGES[family]
    ours = export(parameters(stage), stage, tmp_path / "ours", tokenizer_file=file,
                  eos=tokenizer.eos, context_length=64)
    theirs = transformers.AutoTokenizer.from_pretrained(ours)
    equal = sum(theirs.encode(text) == tokenizer.encode(text) for text in TEXTS)
    print(f"{transformers.__version__}, {family}, {kind}: {equal} of {len(TEXTS)} texts equal")
    for text in TEXTS:
        assert theirs.encode(text) == tokenizer.encode(text), text
        if "\u0301" not in text and "\u212b" not in text or kind != "qwen2's":
            assert theirs.decode(theirs.encode(text)) == text
    assert theirs.model_max_length == 64
    assert transformers.GenerationConfig.from_pretrained(ours).eos_token_id == tokenizer.eos


def test_a_qwen2_as_a_llama_has_the_logits_of_the_qwen2(tmp_path):
    stage = STAGES["qwen2"]
    params = parameters(stage)
    (tmp_path / "own").mkdir()
    _, file = own("trained", tmp_path / "own")
    export(params, stage, tmp_path / "qwen2")
    export(params, stage, tmp_path / "llama", tokenizer_file=file)
    tokens = np.random.default_rng(0).integers(0, 300, (2, 33)).astype(np.int32)
    found = {}
    for name, kind in (("qwen2", "Qwen2ForCausalLM"), ("llama", "LlamaForCausalLM")):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / name, attn_implementation="eager", dtype=torch.float32)
        assert type(model).__name__ == kind
        with torch.no_grad():
            found[name] = model.eval()(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_array_equal(found["llama"], found["qwen2"])
    expected = np.asarray(jax.jit(logits, static_argnums=0)(stage, params, jnp.asarray(tokens)))
    # float32 sums in another order over two layers
    assert np.abs(found["llama"] - expected).max() <= 1e-5 * np.abs(expected).max()


CHAT = [{"role": "user", "content": "to be"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_an_instruction_model_comes_back_as_one(family, tmp_path):
    """Chat, ids, ends, sampling and lengths are those that transformers loads from the source."""
    stage = STAGES[family]
    theirs = export(parameters(stage), stage, tmp_path / "theirs", context_length=64)
    inner = byte_level(cutters=qwen2_cutters(), normalizer=NFC) if family == "qwen2" else BPE._inner
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    first = "<|im_start|>"
    before = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=[first], model_max_length=64, **names)
    before.chat_template = TEMPLATE
    before.save_pretrained(theirs)
    end = before.eos_token_id
    transformers.GenerationConfig(
        eos_token_id=[end, 0], bos_token_id=0, pad_token_id=before.pad_token_id, do_sample=True,
        temperature=0.7, top_p=0.8,
    ).save_pretrained(theirs)
    source = read_source(theirs)
    params = load_canonical(source, build_stage(**source.fields))
    ours = export(params, stage, tmp_path / "ours", origin=origin_of(source), dtype="bfloat16")

    one, other = (transformers.AutoTokenizer.from_pretrained(path) for path in (theirs, ours))
    texts = [*TEXTS, f"{first}a<|im_end|><|pad|> b", "<|im_start"]
    assert [other.encode(text) for text in texts] == [one.encode(text) for text in texts]
    rendered = other.apply_chat_template(CHAT, tokenize=False)
    assert rendered == f"<|endoftext|>{first}to be<|im_end|>"
    for name in (*names, "model_max_length", "chat_template", "padding_side"):
        assert getattr(other, name) == getattr(one, name), name
    assert other.eos_token_id == end and other.model_max_length == 64
    generation = transformers.GenerationConfig.from_pretrained(ours)
    assert generation.eos_token_id == [end, 0] and generation.pad_token_id == before.pad_token_id
    assert (generation.temperature, generation.top_p, generation.do_sample) == (0.7, 0.8, True)
    model = transformers.AutoModelForCausalLM.from_pretrained(ours, dtype="auto")
    assert model.dtype == torch.bfloat16 and model.generation_config.eos_token_id == [end, 0]
    loaded = load_tokenizer(ours)
    assert [loaded.encode(text) for text in texts] == [one.encode(text) for text in texts]
    assert loaded.eos == end
