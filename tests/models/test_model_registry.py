"""Names, sizes and the messages about them."""

import dataclasses

import jax
import pytest

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.models import FAMILIES, PRESETS, build_stage, num_params, preset_fields
from seq1f1b_jax.pipeline.stage import max_positions_of

SIZES = {"num_layers": 2, "model_dim": 24, "num_heads": 4, "vocab_size": 10, "max_positions": 16}
CASES = [(family, name) for family in PRESETS for name in PRESETS[family]]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_preset_builds_with_its_fields(family, name):
    stage = build_stage(family, preset=name)
    fields = preset_fields(family, name)
    if fields.get("positions") == "rotary":
        fields["max_positions"] = None  # a table's length, where there is a table
    for field, value in fields.items():
        assert getattr(stage, field) == value
    assert stage.num_heads * stage.head_dim == stage.model_dim


@pytest.mark.parametrize(
    ("family", "name"), [case for case in CASES if case[1][-1] in "bm" and case[1][0].isdigit()]
)
def test_preset_has_the_parameters_of_its_name(family, name):
    stage = build_stage(family, preset=name)
    named = float(name[:-1]) * {"b": 1e9, "m": 1e6}[name[-1]]
    positions = (getattr(stage, "max_positions", 0) or 0) * stage.model_dim
    # Names are rounded: by 3.5 % for 2.7b, the most.
    assert num_params(stage) - positions == pytest.approx(named, rel=0.04)


@pytest.mark.parametrize(
    ("name", "num_layers", "model_dim", "num_heads"),
    [("2.7b", 32, 2560, 32), ("7b", 32, 4096, 32), ("13b", 40, 5120, 40), ("30b", 64, 6144, 64)],
)
def test_presets_have_the_published_shapes(name, num_layers, model_dim, num_heads):
    for family in FAMILIES:
        stage = build_stage(family, preset=name)
        shape = (stage.num_layers, stage.model_dim, stage.num_heads, stage.num_kv_heads)
        assert shape == (num_layers, model_dim, num_heads, num_heads)
        assert not stage.tied
    gpt = build_stage("gpt", preset=name)
    assert (gpt.positions, gpt.rope_theta, max_positions_of(gpt)) == ("rotary", 10_000.0, None)


def test_positions_of_a_gpt_are_a_choice():
    """Learned unless it is said, or a preset of the paper says it."""
    learned, rotary = build_stage("gpt", **SIZES), build_stage("gpt", **SIZES, positions="rotary")
    assert (learned.positions, max_positions_of(learned)) == ("learned", 16)
    assert num_params(learned) - num_params(rotary) == 16 * 24
    assert {
        name: build_stage("gpt", preset=name).positions for name in PRESETS["gpt"]
    } == {
        **dict.fromkeys(("tiny", "small", "medium", "125m", "350m", "1.3b"), "learned"),
        **dict.fromkeys(("2.7b", "7b", "13b", "30b"), "rotary"),
    }
    again = build_stage("gpt", preset="7b", positions="learned")
    assert again.max_positions == 131072  # as the preset was before it was rotary


def test_num_params_is_the_sum_of_the_leaves():
    for family in FAMILIES:
        stage = build_stage(family, preset="tiny")
        params = jax.eval_shape(stage.init, jax.random.key(0))
        assert num_params(stage) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_llama_7b_counts_by_hand():
    d, f, v, layers = 4096, 11008, 50304, 32
    by_hand = layers * (4 * d * d + 3 * d * f + 2 * d) + d + 2 * v * d
    assert num_params(build_stage("llama", preset="7b")) == by_hand


def test_a_field_wins_over_the_preset():
    stage = build_stage("gpt", preset="125m", num_layers=3, tied=False, norm_eps=None)
    assert (stage.num_layers, stage.tied, stage.norm_eps) == (3, False, 1e-5)


def test_defaults_without_a_preset():
    gpt, llama = build_stage("gpt", **SIZES), build_stage("llama", **SIZES)
    assert (gpt.num_kv_heads, gpt.head_dim, gpt.mlp_dim, gpt.tied) == (4, 6, 96, False)
    assert (llama.mlp_dim, llama.rope_theta) == (64, 10_000.0)


def test_biases_and_windows_are_fields():
    gpt, llama = build_stage("gpt", **SIZES), build_stage("llama", **SIZES, source="anything")
    assert (llama.window, llama.qkv_bias, llama.output_bias) == (None, False, False)
    qwen = build_stage("llama", **SIZES, qkv_bias=True)
    assert num_params(qwen) - num_params(llama) == 2 * 3 * 24
    assert num_params(build_stage("llama", **SIZES, output_bias=True, window=8)) == (
        num_params(llama) + 2 * 24
    )
    assert build_stage("gpt", **SIZES, qkv_bias=True, output_bias=True) == gpt


def test_a_stretch_is_a_mapping_or_a_value():
    rope = RopeConfig("yarn", factor=4.0, original_max_positions=64)
    one = build_stage("llama", **SIZES, rope=rope)
    assert one.rope == rope and hash(one) == hash(one)
    assert one == build_stage("llama", **SIZES, rope=dataclasses.asdict(rope))


def test_a_stage_is_a_value():
    one, other = build_stage("gpt", **SIZES), build_stage("gpt", **SIZES)
    assert one == other and hash(one) == hash(other)
    assert one != build_stage("gpt", **{**SIZES, "num_layers": 3})
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.num_layers = 5


ERRORS = {
    "heads do not divide the width": (
        "gpt", {"model_dim": 26}, "model_dim=26 .* multiple of num_heads=4; use model_dim=28"),
    "kv heads do not divide the heads": (
        "llama", {"num_kv_heads": 3}, r"num_heads=4 .* num_kv_heads=3; .* from \[1, 2, 4\]"),
    "odd head under rotary": ("llama", {"model_dim": 20}, "head_dim=5 is odd; .* head_dim=6"),
    "dropout": ("gpt", {"dropout": 0.1}, "dropout=0.1 .* residuals.* set dropout=0"),
    "family": ("lama", {}, "unknown family 'lama'; did you mean 'llama'"),
    "preset": ("llama", {"preset": "7"}, "unknown llama preset '7'; did you mean '7b'"),
    "preset of no near name": ("gpt", {"preset": "x"}, "unknown gpt preset 'x'; use one of tiny"),
    "missing": (
        "gpt", {"max_positions": None}, "max_positions not given .* 'gpt'.* positions='rotary'"),
    "zero layers": ("gpt", {"num_layers": 0}, "num_layers=0 is not positive"),
    "zero window": ("llama", {"window": 0}, "window=0 is not positive"),
    "gpt's window": ("gpt", {"window": 8}, "window=8 does not exist in family 'gpt'"),
    "gpt without biases": ("gpt", {"qkv_bias": False}, "qkv_bias=False does not exist in family"),
    "gpt stretched": (
        "gpt", {"rope": {"type": "linear", "factor": 2.0}},
        "rope.type=linear does not exist with positions='learned'.* use positions='rotary'"),
    "odd head under rotary gpt": (
        "gpt", {"model_dim": 20, "positions": "rotary"}, "head_dim=5 is odd; .* head_dim=6"),
    "positions": (
        "gpt", {"positions": "none"},
        "positions='none' does not exist in family 'gpt', .* are learned or rotary: leave"),
    "learned llama": (
        "llama", {"positions": "learned"}, "'learned' does not exist .*'llama'.* use family='gpt'"),
    "rope type": ("llama", {"rope": {"type": "x"}}, "unknown rope.type 'x'; use one of none, lin"),
    "rope shrinks": (
        "llama", {"rope": {"type": "linear", "factor": 0.5}}, "rope.factor=0.5 is below 1"),
    "endless": (
        "llama", {"rope": {"type": "linear", "factor": float("inf")}}, "rope.factor=inf is below"),
    "no scale": (
        "llama",
        {"rope": {"type": "yarn", "original_max_positions": 9, "attention_factor": -1.0}},
        "rope.attention_factor=-1.0 scales"),
    "rope factor alone": ("llama", {"rope": {"factor": 2.0}}, "rope.factor=2.0 has no effect"),
    "ntk of a pair": (
        "llama", {"rope": {"type": "ntk", "factor": 2.0}, "head_dim": 2}, "head_dim=2"),
    "yarn's length": (
        "llama", {"rope": {"type": "yarn", "factor": 2.0}}, "original_max_positions=None .*'yarn'"),
    "yarn's ramp": (
        "llama",
        {"rope": {"type": "yarn", "original_max_positions": 9, "beta_fast": 1.0}},
        "rope.beta_slow=1.0 and rope.beta_fast=1.0"),
    "a base below 1": ("llama", {"rope_theta": 1e-30}, "rope_theta=1e-30 is below 1"),
    "yarn's base": (
        "llama", {"rope": {"type": "yarn", "original_max_positions": 9}, "rope_theta": 1.0},
        "rope_theta above 1, not 1.0"),
    "llama3's ramp": (
        "llama",
        {"rope": {"type": "llama3", "original_max_positions": 9, "low_freq_factor": 5.0}},
        "rope.low_freq_factor=5.0 and rope.high_freq_factor=4.0"),
    "experts of a gpt": ("gpt", {"num_experts": 4}, "num_experts=4 does not exist in family"),
    "experts without a choice": (
        "llama", {"num_experts": 4}, "experts_per_token=None; .* set both"),
    "too few experts": ("llama", {"num_experts": 2, "experts_per_token": 3}, "at most all of them"),
    "negative kv heads": ("gpt", {"num_kv_heads": -1}, "num_kv_heads=-1 is not positive"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_names_the_number_and_the_cure(case):
    family, changes, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        build_stage(family, **{**SIZES, **changes})


def test_odd_heads_are_fine_without_rotary():
    assert build_stage("gpt", **{**SIZES, "model_dim": 20}).head_dim == 5


def test_the_folder_beside_train_py_is_the_same_package():
    import models

    assert models.build_stage is build_stage
