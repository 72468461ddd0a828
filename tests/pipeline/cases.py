"""One table of cases: what is built, and the plain reference it is compared with."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.attention.parts import make_backend
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.stage import scoring_of
from seq1f1b_jax.schedule import make_plan
from tests.ops.test_parts import STAND_IN
from tests.pipeline.case import Case
from tests.pipeline.covering import covering_array

VOCAB = 19  # odd, so that no stage count divides it: table padding is always exercised
WINDOW = 4  # tokens; less than a chunk
UNBLOCKED = "unblocked"
"""Attention by parts, on a kernel's stand-in; of packed documents, which that refuses, dense."""
WITHOUT_DOCUMENTS = ("causal", "window")
SIZES = dict(model_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, vocab_size=VOCAB)


FACTORS: dict[str, list[Any]] = dict(
    P=[1, 2, 3, 4, 8],
    V=[1, 2],
    M=[1, 2, 5],
    C=[1, 2, 3, 4],
    lengths=["even", "balanced", "odd"],
    family=["gpt", "llama"],
    recompute=["none", "selective", "matmuls", "full"],
    tied=[False, True],
    layers=["equal", "unequal"],
    schedule=["seq1f1b", "terapipe", "seq1f1b-lockstep", "seq1f1b-i", "seq-zb-h1"],
    extra_warmup=[0, 2],
    attention=["xla_blockwise", UNBLOCKED],
    batch=[1, 2],
    masks=["causal", "packed", "restart", "window"],
    offload=[0.0, 0.5, 1.0],
    x64=[True, False],
)

TRAPS = {
    "one stage": Case(P=1, M=2, C=3, lengths="odd", masks="packed"),
    "one stage, tied": Case(P=1, M=1, C=2, tied=True, family="gpt"),
    "odd number of stages": Case(P=3, M=5, C=2, recompute="none"),
    "fewer microbatches than stages": Case(
        P=8, M=2, C=2, lengths="balanced", masks="restart"
    ),
    "one unit in all": Case(P=4, M=1, C=1, schedule="seq-zb-h1"),
    "one rank, a ring with itself": Case(P=1, V=2, M=3, C=2, schedule="seq1f1b-i"),
    "odd ring, chunks that do not divide it": Case(
        P=3, V=2, M=4, C=2, schedule="seq1f1b-i", lengths="odd", layers="unequal"
    ),
    "split, unequal layers and chunks, documents": Case(
        P=3, M=3, C=4, schedule="seq-zb-h1", lengths="odd", layers="unequal", masks="restart",
        batch=2,
    ),
    "split, recompute everything, four pipelines": Case(
        P=2, D=4, M=2, C=2, schedule="seq-zb-h1", recompute="full"
    ),
    "tokens shared in halves, split": Case(
        P=2, T=2, M=2, C=2, lengths="balanced", schedule="seq-zb-h1", masks="restart",
        sequence=True, halves=True,
    ),
    "split, a part of unequal layers waits in host memory": Case(
        P=3, M=3, C=2, schedule="seq-zb-h1", recompute="matmuls", layers="unequal", offload=0.5
    ),
    "unequal layers, tied": Case(
        P=4, M=2, C=2, layers="unequal", tied=True, masks="window"
    ),
    "recompute everything, documents and a window, four devices for two key/value heads": Case(
        P=2, T=4, M=2, C=4, recompute="full", lengths="odd", batch=2, masks="restart and window"
    ),
}

EVERYDAY_TRAPS = {name: case for name, case in TRAPS.items() if case.T < 4}
"""Four devices for two key/value heads are tried every day with two chunks, by test_kinds."""


@functools.cache
def pairwise_cases() -> list[Case]:
    """The traps by name, then a pairwise cover, some of which runs every day (`every_day`)."""
    traps = list(TRAPS.values())
    others = _cover(strength=2)[len(traps) :]
    return traps + [_spread(case, index) for index, case in enumerate(others)]


def every_day(cover: Sequence[Case]) -> list[Case]:
    """The cheapest of a cover that, with the traps, show every schedule and value of a factor."""
    seen = set().union(*map(shown, EVERYDAY_TRAPS.values()))
    chosen = []
    for case in sorted(cover, key=lambda case: _cost(case._asdict())):
        if not shown(case) <= seen:
            chosen.append(case)
            seen |= shown(case)
    return chosen


def shown(case: Case) -> set[tuple[str, Any]]:
    """The schedule of a case, and its value of every factor."""
    return {("name", case.name), *((factor, getattr(case, factor)) for factor in FACTORS)}


def _spread(case: Case, index: int) -> Case:
    """The same on several pipelines, or with layers cut over devices, where there are enough."""
    if case.D * case.T > 1:
        return case
    data, tensor = [(1, 1), (2, 1), (1, 1), (1, 2)][index % 4]
    data, tensor = (2, 2) if index % 16 == 15 else (data, tensor)
    while data * case.P * tensor > 8:
        data, tensor = (1, tensor) if data > 1 else (1, 1)
    even = case.lengths != "odd"
    return case._replace(D=data, T=tensor, sequence=tensor > 1 and even)


@functools.cache
def long_cases() -> list[Case]:
    """For `make test-all`: two three-wise covers.

    Of every schedule with each pair of stages 2, 3, 4, of chunks 1, 2, 4 and of even and other
    chunks; and of the factors that meet in the executor.
    """

    def grid(case) -> list[tuple]:
        chosen = {"P": (2, 3, 4), "C": (1, 2, 4)}
        values = [(name, case[name]) for name, few in chosen.items() if case[name] in few]
        values.append(("unequal", case["lengths"] != "even"))
        return [(case["schedule"], *pair) for pair in itertools.combinations(values, 2)]

    others = pairwise_cases()
    schedules = _cover(strength=2, also=grid, seeds=others)
    factors = dict(FACTORS)
    alone = ("V", "family", "tied", "schedule", "extra_warmup", "attention", "batch", "x64")
    for name in (*alone, "masks", "offload"):
        factors[name] = FACTORS[name][:1]
    found = [*schedules, *_cover(strength=3, factors=factors)]
    return [_spread(case, index) for index, case in enumerate(found) if case not in others]


def _cost(case: dict[str, Any]) -> float:
    """Relative time to compile a case: a program per chunk, more of it where much is recomputed."""
    dearer = {"layers": "unequal", "recompute": "full", "attention": "xla_blockwise"}
    return case["C"] * case["V"] * 1.3 ** sum(case[name] == value for name, value in dearer.items())


def _cover(
    *, strength: int, factors: dict[str, list[Any]] | None = None,
    seeds: Sequence[Case] = tuple(TRAPS.values()), **options,
) -> list[Case]:
    def valid(case) -> bool:
        if case["C"] == 1 and case["lengths"] == "balanced":
            return False
        if (case["V"] > 1) != (case["schedule"] == "seq1f1b-i") or case["P"] * case["V"] > 8:
            return False
        return not (case["schedule"] != "seq1f1b" and case["extra_warmup"])

    rows = covering_array(
        factors or FACTORS,
        strength=strength,
        valid=valid,
        cost=_cost,
        seeds=[seed._asdict() for seed in seeds],
        **options,
    )
    return [Case(**row) for row in rows]


def stage_of(case: Case, **fields):
    """The model of a case; `fields` are other ones of its family."""
    family, *positions = case.family.split()
    stage = build_stage(
        family, num_layers=sum(case.layers_per_stage), tied=case.tied,
        positions=positions[0] if positions else None, max_positions=sum(case.chunk_lengths),
        **SIZES | fields,
    )
    return stage if fields else replace(stage, window=WINDOW if "window" in case.masks else None)


def build(case: Case, *, fill: float | None = None, stage=None, **options):
    """The pipelined step of a case, of another model if one is given, with more options."""
    stage = stage or stage_of(case)
    plan = make_plan(
        case.name, num_ranks=case.P, num_microbatches=case.M, num_chunks=case.C,
        stages_per_rank=case.V, extra_warmup=case.extra_warmup,
    )
    mesh = make_mesh(case.P, num_data=case.D, num_tensor=case.T)
    unblocked = case.attention == UNBLOCKED
    step = build_step(
        stage, plan, mesh,
        chunk_lengths=case.chunk_lengths,
        layers_per_stage=case.layers_per_stage,
        options=ExecutorOptions(
            attention="xla_dense" if unblocked else case.attention,
            recompute=case.recompute,
            unroll=case.unroll,
            offload=case.offload,
            compute_dtype=case.dtype,
            loss_block=7,
            restart_positions="restart" in case.masks,
            sequence_parallel=case.sequence,
            halves=case.halves,
            fill=fill,
            **options,
        ),
    )
    if unblocked and case.masks in WITHOUT_DOCUMENTS:
        parts = make_backend("parts", STAND_IN, scoring=scoring_of(stage))
        step = replace(step, attention=parts)
    return step


def batch_of(case: Case) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Random tokens, targets of which about a tenth carry no loss, starts of documents."""
    rng = np.random.default_rng(7)
    shape = (case.M, case.D * case.batch, sum(case.chunk_lengths))
    targets = np.where(rng.random(shape) < 0.1, -1, rng.integers(VOCAB, size=shape))
    tokens = rng.integers(VOCAB, size=shape)
    starts = None if case.masks in WITHOUT_DOCUMENTS else starts_of(rng, shape)
    batch = (tokens, targets, starts)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.int32), batch)


def starts_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Documents of about five tokens, borders anywhere."""
    begins = rng.random(shape) < 0.2
    return np.maximum.accumulate(np.where(begins, np.arange(shape[-1]), 0), axis=-1)


def parameters(stage, dtype):
    """Parameters of order one in every leaf, so that no gradient is near zero by accident.

    NumPy draws them: compiling the model's own draw, leaf by leaf, took half as long as the step.
    """
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        centre = float("scale" in keystr(path))  # of a norm
        return jnp.asarray(centre + 0.3 * rng.normal(size=leaf.shape), dtype)

    return jax.tree.map_with_path(draw, jax.eval_shape(stage.init, jax.random.key(0)))


@functools.cache
def _reference_function(stage, dtype, restart, **losses):
    loss = functools.partial(
        reference_loss, stage, compute_dtype=dtype, restart_positions=restart, **losses
    )
    return jax.jit(jax.value_and_grad(loss))


def reference(stage, params, batch, dtype, *, restart: bool = False, **losses):
    """Loss and gradients by plain `jax.grad` on whole sequences."""
    return _reference_function(stage, dtype, restart, **losses)(params, *batch)
