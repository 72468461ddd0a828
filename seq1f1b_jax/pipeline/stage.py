"""What a model gives the executor: one small file of types where the two meet.

The executor knows no model, and a model knows no schedule. A model is split where a pipeline of
sequence chunks has to split it: the key/value prefix belongs to the executor, so attention is
called by the executor between `pre` and `post`; the two vocabulary tables belong to the executor
because the first and the last rank share one buffer for them.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax.tree import leaves_with_path
from jax.tree_util import keystr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seq1f1b_jax.ops.attention import Scoring
from seq1f1b_jax.ops.tensor import ONE_DEVICE, TensorAxis

Tree = Any


class Params(NamedTuple):
    """All parameters of a model, in the layout that is free of topology.

    Attributes:
      layers: tree whose leaves are `[num_layers, ...]`.
      first: tree used beside the embedding by the first stage (learned positions; may be `{}`);
        small, but for the tables that the stage declares (`position_tables_of`).
      last: small tree used before the head by the last stage (the final norm; may be `{}`).
      embedding: `[vocab_size, model_dim]`.
      head: `[vocab_size, model_dim]`, or `None` when the head is tied to the embedding.
    """

    layers: Tree
    first: Tree
    last: Tree
    embedding: Float[Array, "vocab_size model_dim"]
    head: Float[Array, "vocab_size model_dim"] | None


@runtime_checkable
class Stage(Protocol):
    """A decoder-only transformer as pure functions: what changes a result is an argument.

    Inside the pipeline shapes are per device: `B` sequences of one microbatch, `T` tokens of one
    chunk. All functions compute in the dtype of the parameters they are given and return it.
    They must be token-wise: no function may look at another position of its input (only attention,
    which the executor calls, looks back). Properties may be fields of a frozen dataclass.

    A stage may also have more, each with a function here that says what it is: `scoring`, or only
    its `window`, how attention makes scores (`scoring_of`); `value_dim`, another width of values
    (`value_dim_of`); `sinks`, the layer's leaf of attention sinks (`sinks_of`); `logit_softcap`
    (`logit_softcap_of`); `layer_kinds` and `of_kind`, for layers that differ (`kinds_of`);
    `num_experts` and `routed`, where a router chooses what computes a token (`routed_post`);
    `max_positions`, where it has learned so many (`max_positions_of`), and `position_tables`, where
    these are sharded (`position_tables_of`); `shard`, where layers can be sharded over devices
    (`shard_stage`).
    """

    @property
    def num_layers(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def model_dim(self) -> int: ...

    @property
    def num_heads(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def tied(self) -> bool: ...

    def init(self, key: PRNGKeyArray) -> Params:
        """Float32 parameters of a fresh model."""
        ...

    def context(self, positions: Int[Array, "*B T"]) -> Tree:
        """Constants of a chunk that depend on positions only: rotary tables, or `()`.

        Positions are `[T]`, the same for all sequences, or `[B, T]` where documents restart them.
        """
        ...

    def embed(
        self, first: Tree, x: Float[Array, "B T d"], positions: Int[Array, "*B T"]
    ) -> Float[Array, "B T d"]:
        """Finish the embedding from its rows `x = embedding[tokens]`: add positions, scale.

        In the place of a table that `position_tables` names `first` has its rows at `positions`.
        """
        ...

    def pre(
        self, layer: Tree, x: Float[Array, "B t d"], context: Tree
    ) -> tuple[Float[Array, "B T Hq D"], Float[Array, "B T Hkv D"], Float[Array, "B T Hkv Dv"]]:
        """One layer before attention: norm, query/key/value projections, rotary."""
        ...

    def post(
        self, layer: Tree, x: Float[Array, "B t d"], attended: Float[Array, "B T Hq Dv"]
    ) -> Float[Array, "B t d"]:
        """One layer after attention: output projection, residual, norm, MLP, residual."""
        ...

    def final(self, last: Tree, y: Float[Array, "B T d"]) -> Float[Array, "B T d"]:
        """What is between the last layer and the head (the final norm)."""
        ...


def scoring_of(stage: Stage) -> Scoring:
    """How attention makes scores; of a stage with nothing but a `window`, so many keys are seen."""
    scoring = getattr(stage, "scoring", None)
    return Scoring(window=getattr(stage, "window", None)) if scoring is None else scoring


def value_dim_of(stage: Stage) -> int:
    """Width of a head of values, and of what attention gives; the default is `head_dim`."""
    return getattr(stage, "value_dim", None) or stage.head_dim


def sinks_of(stage: Stage) -> str | None:
    """Path in a layer's weights, dots between, of its attention sinks `[Hq]`; `None`: no sinks.

    A sink is a score without a key: it takes its share of the softmax and gives no value.
    """
    return getattr(stage, "sinks", None)


def logit_softcap_of(stage: Stage) -> float | None:
    """Absolute value below which logits are bent by a tanh; `None`: they are as they are."""
    return getattr(stage, "logit_softcap", None)


def kinds_of(stage: Stage) -> tuple[Hashable, ...]:
    """What each layer is, for a stage whose layers differ: equal kinds are computed alike.

    All layers have weights of the same shapes. A kind is hashable and known while a program is
    traced; which stage of the pipeline has which layers does not matter. `None` everywhere is the
    default of a stage without `layer_kinds`.
    """
    return tuple(getattr(stage, "layer_kinds", None) or (None,) * stage.num_layers)


def of_kind(stage: Stage, kind: Hashable) -> Stage:
    """The stage whose `context`, `pre`, `post` and `scoring` are those of one kind of layer."""
    return stage if kind is None else stage.of_kind(kind)  # type: ignore[attr-defined]


def kind_stages(stage: Stage) -> dict[Hashable, Stage]:
    """By kind, in the order in which the model has them."""
    return {kind: of_kind(stage, kind) for kind in dict.fromkeys(kinds_of(stage))}


def windows_of(stage: Stage) -> tuple[int | None, ...]:
    """Sliding-window size of each layer, in keys; `None`: no window. Once, where all are equal."""
    by_kind = {kind: scoring_of(one).window for kind, one in kind_stages(stage).items()}
    windows = tuple(by_kind[kind] for kind in kinds_of(stage))
    return windows[:1] if len(set(windows)) == 1 else windows


def num_experts_of(stage: Stage) -> int:
    """Experts among which a router chooses in every layer; 0, without the field: there is none."""
    return getattr(stage, "num_experts", None) or 0


def routed_post(stage: Stage) -> Callable[[Tree, Array, Array], tuple[Array, Any]]:
    """`post` with what its router says of the chunk: `(layer, x, attended) -> (y, sums)`.

    A stage with `num_experts` has it as `routed`; its `post` gives the same y. The sums are
    `ops.router.RouterSums`, over all tokens of the chunk, on every device of the axis `tensor`.
    Those of a stage without experts are `()`.
    """
    if num_experts_of(stage):
        return stage.routed  # type: ignore[attr-defined]
    return lambda layer, x, attended: (stage.post(layer, x, attended), ())


def max_positions_of(stage: Stage) -> int | None:
    """Longest sequence that positions cover; `None`, the default without the field: no limit.

    A lookup past a table gives its last row, without an error, so longer sequences are refused.
    """
    return getattr(stage, "max_positions", None)


def position_tables_of(stage: Stage) -> tuple[str, ...]:
    """Leaves `[max_positions, n]` in `first` that are looked up by position only.

    They are sharded over devices, and the executor looks up: `embed` gets their rows at the
    positions, `[*B, T, n]`, in their places. `()` is the default of a stage without the field
    `position_tables`: each device has `first` as it is.

    Returns:
      Their paths in `Params`, dots between: `first.table`.
    """
    return tuple(getattr(stage, "position_tables", ()))


def leaf_name(path: tuple) -> str:
    """A tree path with dots between, `layers.mlp.up.kernel`."""
    return keystr(path, simple=True, separator=".")


def is_of_experts(path: tuple) -> bool:
    """Whether a leaf of layers is a stack over experts: its path has the name `experts`."""
    return "experts" in leaf_name(path).split(".")


def active_size(stage: Stage, path: tuple, leaf: Any) -> int:
    """Numbers in a leaf that a token meets: of experts, those of the ones that it goes through."""
    count = num_experts_of(stage) if is_of_experts(path) else 0
    if not count:
        return leaf.size
    return leaf.size // count * getattr(stage, "experts_per_token", count)


def leaf_at(tree: Tree, name: str) -> Any:
    """The leaf of that path.

    Raises:
      ValueError: there is none.
    """
    leaves = {leaf_name(path): leaf for path, leaf in leaves_with_path(tree)}
    if name not in leaves:
        raise ValueError(f"{name!r} is no leaf of a layer; these are {', '.join(leaves)}")
    return leaves[name]


def shard_stage(stage: Stage, tensor: TensorAxis) -> Stage:
    """The stage as one device of the mesh axis `tensor` sees it.

    Its `shard(tensor)` gives a stage with sizes, `init`, `pre` and `post` of one device: weights of
    layers may be shorter by `tensor.size` in one dim, and `pre` and `post` begin and end with
    `tensor.enter` and `tensor.leave` (see `ops.tensor` on replicated weights).

    Raises:
      ValueError: the stage cannot be sharded.
    """
    if tensor.size == 1:
        return stage
    shard = getattr(stage, "shard", None)
    if shard is None:
        raise ValueError(
            f"{type(stage).__name__} has no method shard(tensor), so its layers cannot be sharded "
            f"over tensor={tensor.size} devices; use --mesh.tensor 1"
        )
    return shard(tensor)


def tensor_of(stage: Stage) -> TensorAxis:
    """How a stage's layers are sharded; a stage without the field is on one device."""
    return getattr(stage, "tensor", ONE_DEVICE)


def once_per_stage(function: Callable) -> Callable:
    """Remember what a function of a stage and of hashable arguments returns.

    Only of a stage that says by its values what it is equal to, as a frozen dataclass does: one
    that is compared by identity may be changed, and one without a hash cannot be looked up.
    """
    remembered = lru_cache(maxsize=128)(function)

    @wraps(function)
    def call(stage, *arguments):
        by_value = type(stage).__hash__ not in (None, object.__hash__)
        return (remembered if by_value and _has_hash(stage) else function)(stage, *arguments)

    return call


def _has_hash(stage: Any) -> bool:
    try:
        hash(stage)
    except TypeError:  # one of its fields has none
        return False
    return True
