"""torch.distributed.pipelining: the same llama, weights and batch, over Gloo, one core a process.

Written from torch's documented interfaces: `PipelineStage`, `ScheduleGPipe`, `Schedule1F1B`,
`ScheduleInterleaved1F1B`, `nn.functional.scaled_dot_product_attention`; eager, float32. Needs the
extra `peers`; written against torch 2.13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import pipelining
from torch.nn import functional

from benchmarks.peers.measure import Turns, common_start, measure

SCHEDULES = {
    "torch GPipe": pipelining.ScheduleGPipe,
    "torch 1F1B": pipelining.Schedule1F1B,
    "torch interleaved": pipelining.ScheduleInterleaved1F1B,
}
STAGES_PER_RANK = {"torch interleaved": 2}


@dataclass(frozen=True)
class Sizes:
    """Of the model: as in `models.llama.Llama`."""

    num_layers: int
    model_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float


class Layer(nn.Module):
    """RMSNorm, attention with rotary positions, RMSNorm, SwiGLU."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        dim, inner = sizes.model_dim, sizes.num_heads * sizes.head_dim
        self.head_dim = sizes.head_dim
        self.attention_norm = nn.RMSNorm(dim, eps=sizes.norm_eps)
        self.query, self.key, self.value = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.output = nn.Linear(inner, dim, bias=False)
        self.mlp_norm = nn.RMSNorm(dim, eps=sizes.norm_eps)
        self.gate, self.up = (nn.Linear(dim, sizes.mlp_dim, bias=False) for _ in range(2))
        self.down = nn.Linear(sizes.mlp_dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = self.attention_norm(x)
        q, k, v = (
            project(h).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        out = functional.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        x = x + self.output(out.transpose(1, 2).flatten(-2))
        h = self.mlp_norm(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Part(nn.Module):
    """One stage of the model: a run of layers, the first with the embedding, the last the head."""

    def __init__(self, sizes: Sizes, index: int, num_stages: int, seq_len: int):
        super().__init__()
        each = sizes.num_layers // num_stages
        numbers = range(index * each, (index + 1) * each)
        is_first, is_last = index == 0, index == num_stages - 1
        vocabulary = (sizes.vocab_size, sizes.model_dim)
        self.embedding = nn.Embedding(*vocabulary) if is_first else None
        self.layers = nn.ModuleDict({str(number): Layer(sizes) for number in numbers})
        self.last = nn.RMSNorm(sizes.model_dim, eps=sizes.norm_eps) if is_last else None
        self.head = nn.Linear(*reversed(vocabulary), bias=False) if is_last else None
        turns = sizes.rope_theta ** -(torch.arange(0, sizes.head_dim, 2).double() / sizes.head_dim)
        angles = torch.arange(seq_len).double()[:, None] * turns
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for layer in self.layers.values():
            x = layer(x, self.cos, self.sin)
        return x if self.head is None else self.head(self.last(x))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of the head's dims by their position's angle."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of a microbatch; microbatches have equally many targets."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def worker(
    *, weights: str, sizes: Mapping[str, Any], turns: Mapping[str, Any], rounds: int,
    with_grads: bool = False,
) -> dict[str, Any]:
    """The work of every process.

    Args:
      weights: file of `convert.write`, batch included.
      sizes: of the model.
      turns: of `Turns`.
      rounds: measured steps of each program.
      with_grads: whether to return this rank's gradients, too, by name.

    Returns:
      As `measure`, and the `loss` of each program where this rank knows it.
    """
    arrays = dict(np.load(weights))
    tokens, targets = (torch.from_numpy(arrays.pop(k)).long() for k in ("tokens", "targets"))
    arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
    found = Sizes(**sizes)
    losses: dict[str, float] = {}
    parts: dict[str, list[Part]] = {}

    def program(name: str) -> Callable[[], None]:
        parts[name], step = _program(name, found, arrays, tokens, targets)

        def run() -> None:
            for part in parts[name]:
                part.zero_grad(set_to_none=True)
            losses[name] = step()

        return run

    rank = torch.distributed.get_rank()
    programs = {name: program(name) for name in ("torch alone", *SCHEDULES)}
    result: dict[str, Any] = measure(
        programs, begin=_begin, turns=Turns(**turns), rounds=rounds, is_first=rank == 0
    )
    for name, row in result.items():
        row["loss"] = losses[name]
        if with_grads:
            named = [pair for part in parts[name] for pair in part.named_parameters()]
            row["grads"] = {key: parameter.grad.tolist() for key, parameter in named}
    return result


def _program(name, sizes: Sizes, arrays, tokens: Tensor, targets: Tensor):
    """Parts of the model on this rank, and a step of all microbatches that returns the loss."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    each = STAGES_PER_RANK.get(name, 1)
    num_stages = 1 if name == "torch alone" else ranks * each
    indices = [0] if num_stages == 1 else [rank + ranks * local for local in range(each)]
    parts = [Part(sizes, index, num_stages, tokens.shape[-1]) for index in indices]
    for part in parts:
        part.load_state_dict({key: arrays[key] for key in part.state_dict()})
    num_microbatches = len(tokens)
    if num_stages == 1:

        def step() -> float:
            total = 0.0
            for x, wanted in zip(tokens, targets, strict=True):
                loss = loss_of(parts[0](x), wanted) / num_microbatches
                loss.backward()
                total += loss.item()
            return total

        return parts, step

    stages = [
        pipelining.PipelineStage(part, index, num_stages, torch.device("cpu"))
        for part, index in zip(parts, indices, strict=True)
    ]
    schedule = SCHEDULES[name](stages if each > 1 else stages[0], num_microbatches, loss_fn=loss_of)
    inputs = (tokens.flatten(0, 1),) if 0 in indices else ()
    wanted = targets.flatten(0, 1) if num_stages - 1 in indices else None

    def step() -> float:
        losses: list[Tensor] = []
        schedule.step(*inputs, target=wanted, losses=losses, return_outputs=False)
        return float(torch.stack(losses).mean()) if losses else float("nan")

    return parts, step


def _begin() -> float:
    def latest(now: int) -> int:
        number = torch.tensor(now)
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
        return int(number)

    return common_start(latest)
