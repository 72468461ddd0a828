"""What a model of a built-in family is, in plain numbers: its sizes and its weights.

The executor finds these by tracing a layer. Here they are written down, so that a plan needs no
JAX; tests hold both equal for every family, policy and mesh.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from math import prod
from typing import Any, NamedTuple

from seq1f1b_jax.config import LoraConfig, ModelConfig, NormPlacement, QkNorm, UserError, all_sizes
from seq1f1b_jax.config.experts import expert_problems
from seq1f1b_jax.config.lora import adapter_shapes, lora_problems

NO_ADAPTERS = LoraConfig()
EXPERTS = ("mlp.experts.gate", "mlp.experts.up", "mlp.experts.down")
ROUTER = "mlp.router"


class Leaf(NamedTuple):
    """An array of a layer's weights, as one device holds it.

    Attributes:
      shape: its dims.
      tensor_dim: the one that is sharded over `tensor`; `None`: it is replicated.
      name: its path in a layer.
      stacked: whether the first dim counts experts.
    """

    shape: tuple[int, ...]
    tensor_dim: int | None
    name: str
    stacked: bool = False


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder of a built-in family.

    Attributes:
      num_layers, model_dim, num_heads, num_kv_heads, head_dim, mlp_dim, vocab_size: sizes.
      gated: whether the MLP is a SwiGLU, with three matrices; else a GELU with two and biases.
      centred: whether norms subtract the mean: they have a bias, and one more statistic.
      tied: whether the head is the embedding.
      qkv_bias, output_bias, mlp_bias: whether these projections have biases.
      qk_norm: of queries and keys: `none`, `head` (of each) or `width` (of all at once).
      norm_placement: of the norms of attention and MLP: `before`, `after` or `both`.
      num_experts: MLPs of a layer among which a router chooses; 0: one, without a router.
      experts_per_token: how many it chooses.
      learned_positions: rows of their table; 0: they are rotary.
      windows: sliding-window size of each layer, or one for all.
      lora: adapters of the projections.
      trainable: patterns of the leaves that train (`config.trainable_patterns`); `None`: all do.

    Example:
      >>> from seq1f1b_jax.config import ModelConfig, resolve_model
      >>> from seq1f1b_jax.config.presets import preset_fields
      >>> model = resolve_model(ModelConfig(preset="7b"), preset_fields("llama", "7b"))
      >>> shape_of(model).num_params
      6888361984
    """

    num_layers: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    vocab_size: int
    gated: bool = True
    centred: bool = False
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = "none"
    norm_placement: NormPlacement = "before"
    num_experts: int = 0
    experts_per_token: int = 0
    learned_positions: int = 0
    windows: tuple[int | None, ...] = (None,)
    lora: LoraConfig = NO_ADAPTERS
    trainable: tuple[str, ...] | None = None

    @property
    def num_params(self) -> int:
        """Of the whole model."""
        tables = (1 if self.tied else 2) * self.vocab_size + self.learned_positions
        last = self.norm_weights
        return self.num_layers * self.layer_weights(1) + tables * self.model_dim + last

    @property
    def norm_weights(self) -> int:
        """Numbers in one norm."""
        return (2 if self.centred else 1) * self.model_dim

    def layer_weights(self, num_tensor: int) -> int:
        """Numbers in a layer's weights on one device."""
        return sum(prod(leaf.shape) for leaf in self.layer_leaves(num_tensor))

    @property
    def expert_weights(self) -> int:
        """Numbers in the weights of all experts of a layer."""
        return self.num_experts * 3 * self.model_dim * self.mlp_dim

    @property
    def active_weights(self) -> int:
        """Numbers in a layer's weights that a token meets."""
        unused = self.num_experts - self.experts_per_token
        idle = self.expert_weights // self.num_experts * unused if self.num_experts else 0
        return self.layer_weights(1) - idle

    def trains(self, name: str) -> bool:
        """Whether a leaf trains, by its path in the parameters."""
        return self.trainable is None or any(fnmatchcase(name, one) for one in self.trainable)

    def leaf_names(self) -> tuple[str, ...]:
        """Paths of all leaves in the parameters."""
        layers = [f"layers.{leaf.name}" for leaf in self.layer_leaves(1)]
        last = ["last.scale"] + ["last.bias"] * self.centred
        first = ["first.table"] * bool(self.learned_positions)
        return (*layers, *first, *last, "embedding", *["head"] * (not self.tied))

    @property
    def trains_head(self) -> bool:
        """Whether the head does, which may be the embedding."""
        return self.trains("embedding" if self.tied else "head")

    def wants_input(self, *projections: str) -> bool:
        """Whether a weight gradient reads the input of one of these: of its matrix, or its A."""
        return any(
            self.trains(f"layers.{path}.kernel") or self.lora.adapts(path) for path in projections
        )

    def layer_leaves(self, num_tensor: int) -> Iterator[Leaf]:
        """The arrays of a layer on one device; key/value heads fewer than devices are on all."""
        for leaf in self._base_leaves(num_tensor):
            yield leaf
            path = leaf.name.removesuffix(".kernel")
            found = adapter_shapes(self.lora, path, leaf.shape, leaf.tensor_dim)
            yield from (Leaf(*shape, name) for name, shape in found.items())

    def _base_leaves(self, num_tensor: int) -> Iterator[Leaf]:
        """Those beside the adapters."""
        d, mlp = self.model_dim, self.mlp_dim // num_tensor
        heads = self.num_heads // num_tensor
        shared = num_tensor > self.num_kv_heads
        kv_dim = self.num_kv_heads * self.head_dim // (1 if shared else num_tensor)
        placed = {"before": ("",), "after": ("_post",), "both": ("", "_post")}
        for norm in product(("attention", "mlp"), placed[self.norm_placement]):
            for weight in ("scale", "bias") if self.centred else ("scale",):
                yield Leaf((d,), None, f"{''.join(norm)}_norm.{weight}")
        for name, width in zip(("query", "key"), self.qk_norms(heads, kv_dim), strict=False):
            yield Leaf((width,), None, f"attention.{name}_norm.scale")
        ways = ((heads * self.head_dim, 1), *[(kv_dim, None if shared else 1)] * 2)
        for name, (width, dim) in zip(("query", "key", "value"), ways, strict=True):
            yield Leaf((d, width), dim, f"attention.{name}.kernel")
            if self.qkv_bias:
                yield Leaf((width,), None if dim is None else 0, f"attention.{name}.bias")
        yield Leaf((heads, self.head_dim, d), 0, "attention.output.kernel")
        if self.output_bias:
            yield Leaf((d,), None, "attention.output.bias")
        if self.num_experts:
            yield from self._expert_leaves(mlp)
            return
        bias = not self.gated or self.mlp_bias
        for name in ("gate", "up") if self.gated else ("up",):
            yield Leaf((d, mlp), 1, f"mlp.{name}.kernel")
            if bias:
                yield Leaf((mlp,), 0, f"mlp.{name}.bias")
        yield Leaf((mlp, d), 0, "mlp.down.kernel")
        if bias:
            yield Leaf((d,), None, "mlp.down.bias")

    def _expert_leaves(self, mlp: int) -> Iterator[Leaf]:
        count, d = self.num_experts, self.model_dim
        yield Leaf((d, count), None, ROUTER + ".kernel")
        yield Leaf((count, d, mlp), 2, f"{EXPERTS[0]}.kernel", stacked=True)
        yield Leaf((count, d, mlp), 2, f"{EXPERTS[1]}.kernel", stacked=True)
        yield Leaf((count, mlp, d), 1, f"{EXPERTS[2]}.kernel", stacked=True)

    def qk_norms(self, heads: int, kv_dim: int) -> tuple[int, ...]:
        """Widths of the norms of queries and keys."""
        each, whole = (self.head_dim,) * 2, (heads * self.head_dim, kv_dim)
        return {"none": (), "head": each, "width": whole}[self.qk_norm]

    def kv_heads(self, num_tensor: int) -> int:
        """Key/value heads that one device computes with."""
        return max(1, self.num_kv_heads // num_tensor)


def shape_of(
    model: ModelConfig, lora: LoraConfig = NO_ADAPTERS, trainable: tuple[str, ...] | None = None
) -> ModelShape:
    """The shape of a model whose preset is filled in.

    Args:
      model: from `resolve_model`, with a vocabulary, and a length for learned positions.
      lora: see `ModelShape`.
      trainable: likewise.

    Raises:
      UserError: a custom model, whose layers only its class knows; experts or adapters that cannot
        be, or patterns that fit no leaf.
      ValueError: sizes that do not fit together.
    """
    if model.stage is not None:
        raise UserError(
            f"model.stage={model.stage} is a custom class, and a plan counts the layers of the "
            "built-in families; describe one of them that is as large, with --model.family, "
            "--model.num_layers and so on"
        )
    sizes: dict[str, Any] = all_sizes(model)
    problems = lora_problems(lora, None, stage=None, family=sizes["family"])
    for problem in (*problems, *expert_problems(sizes, lora)):
        raise UserError(problem)
    names = ("mlp_bias", "qk_norm", "norm_placement", "num_experts", "experts_per_token")
    options = {name: sizes[name] for name in names if name in sizes}
    is_gpt = sizes["family"] == "gpt"
    names = (
        "num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
        "vocab_size", "tied",
    )
    shape = ModelShape(
        **{name: sizes[name] for name in names}, gated=not is_gpt, centred=is_gpt,
        qkv_bias=is_gpt or bool(sizes.get("qkv_bias")),
        output_bias=is_gpt or bool(sizes.get("output_bias")),
        learned_positions=sizes["max_positions"] if sizes["positions"] == "learned" else 0,
        windows=_windows(sizes), lora=lora, trainable=trainable, **options,
    )
    leaves = shape.leaf_names()
    for pattern in trainable or ():
        if not any(fnmatchcase(name, pattern) for name in leaves):
            raise UserError(
                f"train.trainable={pattern} fits no leaf of the model; the leaves are "
                f"{', '.join(leaves)}"
            )
    return shape


def _windows(sizes: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The window of each layer, or of all."""
    pattern, window = sizes.get("layer_pattern") or ["window"], sizes.get("window")
    kinds = [pattern[layer % len(pattern)] for layer in range(sizes["num_layers"])]
    windows = tuple(window if kind == "window" else None for kind in kinds)
    return windows[:1] if len(set(windows)) == 1 else windows
