"""Checkpoints to parameters and back, without torch: every byte, every rank, every mismatch."""

import json
import shutil
import tracemalloc
from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.safetensors import SINGLE, open_checkpoint
from seq1f1b_jax.formats.write_safetensors import write_checkpoint
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export, load_canonical, load_params, load_rows, read_source
from seq1f1b_jax.models.hf.rules import rule
from seq1f1b_jax.pipeline.params.layout import make_layout
from seq1f1b_jax.pipeline.params.rows import from_pipeline, shares, to_pipeline
from tests.models.hf_cases import SIZES, STAGES, parameters

SLOW = pytest.mark.slow
EVERYDAY_FIRST = ["gpt2", *(pytest.param(name, marks=SLOW) for name in STAGES if name != "gpt2")]


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def content(folder):
    files = open_checkpoint(folder)
    return {name: (kind.dtype, files.read(name).tobytes()) for name, kind in files.tensors.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An exported checkpoint of every stage; tests that change one copy it first."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, stage in STAGES.items():
        export(parameters(stage), stage, root / name, special_tokens={"eos": 2})
    return root


@pytest.fixture(params=STAGES)
def name(request):
    return request.param


def test_export_then_import_is_the_same_model(folders, name):
    source = read_source(folders / name)
    stage = build_stage(**source.fields)
    assert stage == STAGES[name]
    assert_equal(load_canonical(source, stage), parameters(stage))


def test_import_then_export_is_byte_equal(folders, name, tmp_path):
    source = read_source(folders / name)
    export(load_canonical(source, STAGES[name]), STAGES[name], tmp_path / "again")
    assert content(tmp_path / "again") == content(folders / name)


@pytest.mark.parametrize("name", EVERYDAY_FIRST)
def test_bfloat16_through_float32_is_byte_equal(name, tmp_path):
    stage = STAGES[name]
    params = parameters(stage, ml_dtypes.bfloat16)
    export(params, stage, tmp_path / "first", dtype="bfloat16", max_shard_bytes=1500)
    source = read_source(tmp_path / "first")
    loaded = load_canonical(source, stage)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    export(loaded, stage, tmp_path / "second", dtype="bfloat16")
    assert content(tmp_path / "second") == content(tmp_path / "first")
    assert {dtype for dtype, _ in content(tmp_path / "first").values()} == {"BF16"}


def test_names_and_dims_are_those_of_llama(folders):
    files, params = open_checkpoint(folders / "llama"), parameters(STAGES["llama"])
    attention = params.layers["attention"]
    prefix = "model.layers.3.self_attn"
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        np.testing.assert_array_equal(
            files.read(f"{prefix}.{theirs}.weight"), attention[ours]["kernel"][3].T)
    np.testing.assert_array_equal(
        files.read(f"{prefix}.o_proj.weight"), attention["output"]["kernel"][3].reshape(24, 12).T)
    np.testing.assert_array_equal(files.read("lm_head.weight"), params.head)
    assert files.tensors["model.layers.0.mlp.down_proj.weight"].shape == (12, 20)


def test_names_and_dims_are_those_of_gpt2(folders):
    files, params = open_checkpoint(folders / "gpt2"), parameters(STAGES["gpt2"])
    attention = params.layers["attention"]
    for kind, axis in (("kernel", 1), ("bias", 0)):
        fused = files.read(f"transformer.h.1.attn.c_attn.{'weight' if axis else 'bias'}")
        parts = [attention[part][kind][1] for part in ("query", "key", "value")]
        np.testing.assert_array_equal(fused, np.concatenate(parts, axis=axis))
    np.testing.assert_array_equal(
        files.read("transformer.h.1.attn.c_proj.weight"),
        attention["output"]["kernel"][1].reshape(12, 12))
    np.testing.assert_array_equal(files.read("transformer.wpe.weight"), params.first["table"])
    assert "lm_head.weight" not in files.tensors


MESHES = {"1": (1, 1, None), "3": (3, 1, None), "2, uneven": (2, 1, (1, 4)), "2 x 2": (2, 2, None)}


@pytest.mark.parametrize("case", MESHES)
def test_the_mesh_holds_what_the_checkpoint_holds(folders, name, case):
    ranks, virtual, counts = MESHES[case]
    stage = STAGES[name]
    layout = make_layout(
        stage.num_layers, ranks, vocab_size=stage.vocab_size, tied=stage.tied,
        stages_per_rank=virtual, layers_per_stage=counts,
    )
    mesh = jax.make_mesh((ranks,), ("pipe",), axis_types=(AxisType.Auto,),
                         devices=jax.devices()[:ranks])
    loaded = load_params(read_source(folders / name), stage, layout, mesh)
    expected = to_pipeline(parameters(stage), layout)
    assert_equal(jax.tree.map(np.asarray, loaded), expected)
    assert_equal(from_pipeline(loaded, layout), parameters(stage))
    assert len(loaded.embedding.sharding.device_set) == ranks
    assert loaded.embedding.addressable_shards[0].data.shape[0] == 1


def test_a_rank_reads_its_own_layers_only(folders):
    source, stage = read_source(folders / "llama"), STAGES["llama"]
    layout = make_layout(5, 2, vocab_size=11, tied=False)
    read = []

    class Watched:
        tensors = source.tensors.tensors

        def read(self, name):
            read.append(name)
            return source.tensors.read(name)

    rows = load_rows(replace(source, tensors=Watched()), stage).layers["mlp"]["up"]["kernel"]
    shares(rows, "layer", layout)((slice(1, 2), *[slice(None)] * 3))
    assert read == [f"model.layers.{layer}.mlp.up_proj.weight" for layer in (3, 4)]


def test_a_share_takes_no_more_than_itself_and_a_tensor(tmp_path, monkeypatch):
    # as if the model were larger
    monkeypatch.setattr("seq1f1b_jax.pipeline.params.rows.BLOCK_BYTES", 1)
    stage = build_stage("llama", **{**SIZES, "model_dim": 256, "mlp_dim": 512, "num_layers": 4})
    export(parameters(stage), stage, tmp_path / "wide", dtype="bfloat16")
    rows = load_rows(read_source(tmp_path / "wide"), stage).layers["mlp"]["up"]["kernel"]
    layout = make_layout(4, 2, vocab_size=11, tied=False)
    tracemalloc.start()
    share = shares(rows, "layer", layout)((slice(0, 1), *[slice(None)] * 3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tensor = share.nbytes // 2
    assert share.nbytes <= peak <= share.nbytes + tensor + 50_000


def changed(folders, name, tmp_path, change, dtype="F32"):
    """A copy of a checkpoint whose tensors went through `change(dict)`."""
    folder = tmp_path / "changed"
    shutil.copytree(folders / name, folder)
    files = open_checkpoint(folders / name)
    tensors = {key: np.array(files.read(key)) for key in files.tensors}
    change(tensors)
    (folder / SINGLE).unlink()
    shapes = {key: value.shape for key, value in tensors.items()}
    write_checkpoint(folder, shapes, tensors.__getitem__, dtype=dtype)
    return folder


def test_all_mismatches_are_told_at_once(folders, tmp_path):
    def change(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.9.mlp.up_proj.weight"] = np.zeros(3)
        tensors["lm_head.weight"] = np.zeros((11, 13))
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(24)

    source = read_source(changed(folders, "llama", tmp_path, change))
    with pytest.raises(UserError) as error:
        load_canonical(source, STAGES["llama"])
    message = str(error.value)
    assert "1 tensors missing: model.norm.weight [12]" in message
    assert "2 tensors not part of the model: " in message
    assert "model.layers.9.mlp.up_proj.weight" in message and "q_proj.bias" in message
    assert "1 tensors of another shape: lm_head.weight is [11, 13], not [11, 12]" in message
    assert "\n" not in message


def test_long_lists_are_cut(folders):
    source = read_source(folders / "llama")
    with pytest.raises(UserError, match=r"18 tensors missing: .* and 10 more"):
        load_canonical(source, replace(STAGES["llama"], num_layers=7))
    with pytest.raises(UserError, match=r"9 tensors not part of the model: .* and 1 more"):
        load_canonical(source, replace(STAGES["llama"], num_layers=4))


def test_another_family(folders):
    with pytest.raises(UserError, match="holds a GPT2LMHeadModel, .* not of family 'llama'"):
        load_canonical(read_source(folders / "gpt2"), STAGES["llama"])


def test_integers_are_no_weights(folders, tmp_path):
    source = read_source(changed(folders, "llama", tmp_path, lambda tensors: None, dtype="I8"))
    with pytest.raises(UserError, match="48 tensors of a type that holds no weights: .* is I8"):
        load_canonical(source, STAGES["llama"])


def test_older_gpt2_files_have_no_prefix_and_hold_masks(folders, tmp_path):
    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 9, 9)))

    source = read_source(changed(folders, "gpt2", tmp_path, change))
    assert_equal(load_canonical(source, STAGES["gpt2"]), parameters(STAGES["gpt2"]))


def test_a_tied_head_may_stand_twice_but_not_differ(folders, tmp_path):
    stage = STAGES["llama tied biases"]

    def twice(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    def other(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    source = read_source(changed(folders, "llama tied biases", tmp_path, twice))
    assert_equal(load_canonical(source, stage), parameters(stage))
    shutil.rmtree(source.path)
    source = read_source(changed(folders, "llama tied biases", tmp_path, other))
    with pytest.raises(UserError, match="lm_head.weight differs from the embedding"):
        load_canonical(source, stage)


@pytest.mark.parametrize("name", ["llama tied biases", "gpt2"])
def test_a_tied_table_may_have_the_heads_name(folders, tmp_path, name):
    stage = STAGES[name]

    def only_head(tensors):
        [table] = [key for key in tensors if key.endswith(("embed_tokens.weight", "wte.weight"))]
        tensors["lm_head.weight"] = tensors.pop(table)

    source = read_source(changed(folders, name, tmp_path, only_head))
    assert_equal(load_canonical(source, stage), parameters(stage))
    untied = replace(stage, tied=False)
    with pytest.raises(UserError, match="1 tensors missing: .*(embed_tokens|wte).weight"):
        load_canonical(source, untied)


def test_an_adapter_is_not_left_out(folders, tmp_path):
    adapted = shutil.copytree(folders / "llama", tmp_path / "adapted")
    (adapted / "adapter_config.json").write_text("{}")
    for cure in ("remove it", "give the weights"):
        with pytest.raises(UserError, match=f"adapter_config.json, .* merge it .* or {cure}"):
            read_source(adapted)
        (adapted / "config.json").unlink(missing_ok=True)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(UserError, match="'nowhere' is not a checkpoint; give a folder"):
        read_source("nowhere")
    with pytest.raises(UserError, match="cannot read n{300} .File name too long"):
        read_source("n" * 300)
    with pytest.raises(UserError, match="has no config.json"):
        read_source(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="is a JSON list, not an object"):
        read_source(tmp_path)


def test_more_layers_than_anyone_could_list(folders, tmp_path):
    config = json.loads((folders / "llama" / "config.json").read_text())
    config["num_hidden_layers"] = 10**30
    shutil.copytree(folders / "llama", tmp_path / "many")
    (tmp_path / "many" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"claims {10**30} layers and holds [0-9]+ tensors"):
        read_source(tmp_path / "many")


def test_a_source_describes_itself(folders):
    source = read_source(folders / "gpt2")
    assert source.context_length == 9 and source.tokenizer_file is None
    assert source.special_tokens == {"eos": 2}
    line = source.describe()
    assert "GPT2LMHeadModel, 5 layers of width 12, vocabulary 11, trained on 9 tokens" in line
    assert "\n" not in line


def test_a_rule_reads_as_its_pattern():
    stage = STAGES["llama"]
    one = rule("w", "a", "(h r t) d", "d (h t r)")
    assert one.shape(stage) == (24, 12)
    rows = np.arange(24.0)[:, None] * np.ones(12)
    # A head of 6 rows in pairs (0 1) (2 3) (4 5) becomes its halves 0 2 4 and 1 3 5.
    ours = one.to_ours(rows, leaf="a", stage=stage)
    np.testing.assert_array_equal(ours[0, :8], [0, 2, 4, 1, 3, 5, 6, 8])
    np.testing.assert_array_equal(one.to_theirs([ours], stage=stage), rows)
