"""Low-rank adapters: exact gradients on every mesh and schedule, and their cost."""

from dataclasses import replace

import jax
import pytest

from seq1f1b_jax.config import LoraConfig
from seq1f1b_jax.config.lora import ADAPTERS
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.test_kinds import GEMMA3
from tests.pipeline.test_trained import check_trained, frozen_step
from tests.pipeline.test_weight_split import TOKENS, actions, program_of

HEADS = ("query", "key", "value", "output")
ALL = (*HEADS, "gate", "up", "down")
OF_GPT = (*HEADS, "up", "down")
CASES = {
    "all projections, two devices, tokens shared, split": (
        ALL, (), Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", sequence=True)
    ),
    "query and value": (("query", "value"), (), Case(P=2, M=2, C=2, lengths="balanced")),
    "gpt, one stage, and its norms": (
        OF_GPT, ("*norm*",), Case(P=1, M=2, C=2, family="gpt", lengths="odd")
    ),
    "four devices for two key/value heads, and the head": (
        ALL, ("head",), Case(P=1, T=4, M=1, C=2)
    ),
    "a ring, documents, matmuls again": (
        ALL, (),
        Case(P=2, V=2, M=2, C=4, schedule="seq1f1b-i", recompute="matmuls", masks="restart"),
    ),
    "two pipelines of three ranks, everything again": (
        HEADS, ("embedding",), Case(P=3, D=2, M=2, C=2, recompute="full", layers="unequal")
    ),
    "gpt of two devices, none recomputed": (
        OF_GPT, (), Case(P=2, T=2, M=2, C=2, family="gpt", recompute="none", tied=True)
    ),
    "four ranks, split, everything again": (
        ("value", "down"), (), Case(P=4, M=3, C=2, schedule="seq-zb-h1", recompute="full")
    ),
    "in halves": (
        ALL, (), Case(P=2, T=2, M=2, C=2, lengths="balanced", sequence=True, halves=True)
    ),
    "unrolled, on the host": (
        ALL, (), Case(P=2, M=2, C=2, layers="unequal", unroll=3, offload=0.5, masks="packed")
    ),
    "float32": (("query", "value"), (), Case(P=2, M=2, C=2, x64=False)),
}
EVERY_DAY = tuple(CASES)[:1]


def with_adapters(stage, projections=ALL, rank=3):
    return replace(stage, lora=LoraConfig(rank=rank, alpha=5.0, projections=projections))


@pytest.mark.parametrize(
    "projections, others, case",
    [
        pytest.param(*values, marks=[] if name in EVERY_DAY else pytest.mark.slow)
        for name, values in CASES.items()
    ],
    ids=CASES,
)
def test_gradients_of_adapters_are_exact(projections, others, case):
    check_trained(case, (ADAPTERS, *others), with_adapters(cases.stage_of(case), projections))


@pytest.mark.slow
def test_adapters_in_layers_that_differ():
    case = Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", lengths="balanced", sequence=True)
    check_trained(case, (ADAPTERS,), with_adapters(cases.stage_of(case, **GEMMA3)))


def test_adapters_cost_little_and_frozen_kernels_no_gradient():
    """Matmul FLOPs of the compiled `B`, `I` and `W`: 2 per token, weight and product."""
    rank, d, kv, mlp = 4, 32, 16, 96
    lora = LoraConfig(rank=rank, projections=ALL)
    whole, own = program_of("llama", "selective"), program_of(
        "llama", "selective", (ADAPTERS,), lora=lora
    )
    (whole_b, *_, whole_w), (own_b, *_, own_w) = actions(whole), actions(own)
    adapters = rank * sum((2 * d + 2 * (d + kv), 2 * d, 3 * (d + mlp)))
    assert own_w == 2 * TOKENS * adapters  # of the kernels nothing
    assert whole_b - whole_w == own_b - own_w - 2 * TOKENS * adapters  # on the way of gradients


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_an_adapter_keeps_its_rank_per_token(recompute):
    case = Case(P=2, M=2, C=2, recompute=recompute, x64=False)
    plain = frozen_step(case, None).program(1)
    adapted = frozen_step(case, (ADAPTERS,), with_adapters(cases.stage_of(case))).program(1)
    sizes = [
        sum(entry.size for entry in program.residual_plans[0].entries)
        for program in (plain, adapted)
    ]
    assert sizes[1] - sizes[0] == len(ALL) * 8 * 3  # projections, tokens, rank


def test_other_weights_begin_as_without_adapters():
    stage = cases.stage_of(Case())
    plain = jax.jit(stage.init)(jax.random.key(0))
    adapted = jax.jit(with_adapters(stage).init)(jax.random.key(0))
    names = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(adapted)}
    for path, leaf in jax.tree.leaves_with_path(plain):
        assert (names.pop(jax.tree_util.keystr(path)) == leaf).all()
    assert len(names) == 2 * len(ALL)
    for name, leaf in names.items():
        if name.endswith("['lora_b']"):
            assert not leaf.any()
        else:
            bound = 24**-0.5 if "down" in name else 16**-0.5
            assert 0.8 * bound < abs(leaf).max() <= bound
