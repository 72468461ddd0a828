"""How long every action takes on a device, by what it does: the planner's cost model.

Of a layer and a chunk of n tokens, of which the device works on all for its share of heads and MLP
(w = d/t, F = F/t, on one of t devices), h = 2 Hkv D/t numbers of keys and values per token, o
tokens before the chunk:

    matmuls      2 n W forward, 2 n (W + those that train) backward, W the weights of a layer on the
                 device, adapters included
    attention    4 D forward and 10 D backward for each pair and query head
    other        n (24 w + 7 F) numbers forward, n (30 w + 10 F) backward, read or written by norms,
                 activations, residuals and copies; 4 F and 6 F without a gate; where devices share
                 tokens 4 d and 11 d more for those that are gathered; and the prefix, 3 o h
                 forward, 11 o h backward, 5 o h for the last chunk, which adds to no gradient
    experts      of k per token of E: matmuls of n k / E rows, at most a block; F is k F_e
    collectives  n d numbers, (t-1)/t of them over the link: four forward, four of six backward that
                 no matmul hides

The numbers in `other` and the hidden collectives were read off the programs that XLA compiles for
H100s (docs/design/planner.md); they are bytes of a program, not times. Times follow from the
device's peaks and shares (`plan.hardware`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.ops.blocks import LARGEST_EXPERT_BLOCK
from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.hardware import Hardware
from seq1f1b_jax.schedule import Costs, Op
from seq1f1b_jax.schedule.memory.sizes import Value
from seq1f1b_jax.schedule.memory.workspace import loss_block

KINDS = ("matmul", "attention", "other", "collectives", "offload")
"""What an action spends its time with; `offload`: waiting for copies."""
KERNELS = {Op.F: 30, Op.B: 43}
"""Launches of a layer."""
RECOMPUTED = {"matmuls": ("matmul", "other", "collectives"), "full": KINDS[:4]}
"""Of a forward, what the backward does again."""
W_SHARE = 0.3
"""Of a backward's other kernels, those of `W`."""


class Traffic(NamedTuple):
    """Numbers read and written by kernels that are no matmul, per token; see above."""

    width: int
    gated: int
    plain: int
    gathered: int
    prefix: int
    last_prefix: int


TRAFFIC = {
    Op.F: Traffic(width=24, gated=7, plain=4, gathered=4, prefix=3, last_prefix=3),
    Op.B: Traffic(width=30, gated=10, plain=6, gathered=11, prefix=11, last_prefix=5),
}
EXPERT_BYTES = 32
"""Of an expert's weight in a backward, whatever its tokens: its float32 gradient is set to zero,
copied, added to by blocks, and added to the accumulator."""
EXPOSED = {Op.F: 4, Op.B: 4}
"""Collectives of a layer that no matmul runs beside."""

Times = dict[str, NDArray[np.float64]]
"""Seconds by kind, `[num_stages, num_chunks]`."""


@dataclass(frozen=True, eq=False)
class Work:
    """Seconds of every action of a draft on a device.

    Attributes:
      by_op: of `F`, `B`, `I` and `W`, by kind.
      host_reads: of every action, for conditions that the host reads.
      transfer: of a message between neighbours.
    """

    by_op: Mapping[Op, Times]
    host_reads: float
    transfer: float

    def seconds(self, op: Op) -> NDArray[np.float64]:
        """Of an operation, `[num_stages, num_chunks]`."""
        return np.sum(list(self.by_op[op].values()), axis=0) + self.host_reads

    def costs(self) -> Costs:
        """As `simulate` takes them."""
        return Costs(
            self.seconds(Op.F), self.seconds(Op.B), weights=self.seconds(Op.W),
            inputs=self.seconds(Op.I), transfer=self.transfer,
        )


def work_of(draft: Draft, hardware: Hardware) -> Work:
    """What every action of a draft takes on a device."""
    chunks = _Chunks(draft, hardware)
    layers = np.array(draft.layers_per_stage, float)[:, None]
    last = np.zeros_like(layers)
    last[-1] = 1
    forward, backward = chunks.layer(Op.F), chunks.layer(Op.B)
    for kind in RECOMPUTED.get(draft.config.executor.recompute, ()):
        backward[kind] = backward[kind] + forward[kind]
    ahead = {kind: layers * seconds for kind, seconds in forward.items()}
    for kind, seconds in chunks.head().items():
        ahead[kind] = ahead[kind] + last * seconds
    back = {kind: layers * seconds for kind, seconds in backward.items()}
    weights = {kind: np.zeros_like(seconds) for kind, seconds in back.items()}
    weights["matmul"] = layers * chunks.matmul(chunks.trained)
    weights["other"] = W_SHARE * back["other"]
    inputs = {kind: back[kind] - weights[kind] for kind in KINDS}
    by_op = {Op.F: ahead, Op.B: back, Op.I: inputs, Op.W: weights}
    _wait_for_copies(draft, hardware, by_op)
    link = hardware.bandwidth(draft.num_ranks * draft.num_tensor)
    reads = hardware.host_read * hardware.host_reads
    message = draft.sizes.message
    return Work(by_op, reads, message / link if draft.num_ranks > 1 else 0.0)


class _Chunks:
    """Seconds of one layer, and of the head, by chunk."""

    def __init__(self, draft: Draft, hardware: Hardware) -> None:
        self.draft, self.hardware = draft, hardware
        self.lengths = np.array(draft.lengths, float)
        self.tokens = draft.num_sequences * self.lengths
        self.bandwidth = hardware.memory_bandwidth * hardware.memory_share
        cost, num_tensor = draft.cost, draft.num_tensor
        self.weights = cost.layer_weights / num_tensor
        self.trained = cost.trained_weights / num_tensor

    def matmul(self, weights: float) -> NDArray[np.float64]:
        """A matmul with each of so many weights of a layer, the experts' part in their blocks."""
        shape, tensor = self.draft.shape, self.draft.num_tensor
        chosen = 3 * shape.model_dim * shape.mlp_dim * shape.experts_per_token / tensor
        of_experts = weights * chosen / self.weights
        seconds = self._product(weights - of_experts, self.tokens)
        if shape.num_experts:
            pairs = self.tokens * shape.experts_per_token / shape.num_experts
            seconds += self._product(of_experts, np.clip(pairs, 1, LARGEST_EXPERT_BLOCK))
        return seconds

    def _product(self, weights: float, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """All tokens by so many weights, in matmuls of so many rows."""
        hardware = self.hardware
        share = np.array([hardware.matmul_share(n) for n in rows])
        return 2 * self.tokens * weights / (hardware.matmul_flops * share)

    def layer(self, op: Op) -> Times:
        """Of one layer."""
        return {
            "matmul": self.matmul(self.weights + (0 if op is Op.F else self.trained)),
            "attention": self._attention(op),
            "other": self._other(op),
            "collectives": self._collectives(op),
            "offload": np.zeros_like(self.lengths),
        }

    def head(self) -> Times:
        """Of the loss: logits, their gradient by the input and by the table, in the forward."""
        draft, hardware = self.draft, self.hardware
        table = draft.shape.vocab_size * draft.shape.model_dim / draft.num_tensor
        block = np.minimum(self.tokens, loss_block(draft.sizes))
        share = np.array([hardware.matmul_share(tokens) for tokens in block])
        logits = self.tokens * draft.shape.vocab_size / draft.num_tensor
        trains = draft.shape.trains_head
        moved = 16 * logits + 8 * table * trains * np.ceil(self.tokens / block)
        return {
            "matmul": (4 + 2 * trains) * self.tokens * table / (hardware.matmul_flops * share),
            "other": moved / self.bandwidth,
        }

    def _attention(self, op: Op) -> NDArray[np.float64]:
        draft, hardware = self.draft, self.hardware
        share, matmuls = {
            Op.F: (hardware.attention_forward, 4), Op.B: (hardware.attention_backward, 10),
        }[op]
        ends = list(accumulate(draft.lengths))
        pairs = np.diff([0.0, *(draft.cost.pairs(end) for end in ends)]) * draft.num_sequences
        flops = matmuls * pairs * draft.shape.num_heads * draft.shape.head_dim / draft.num_tensor
        return flops / (hardware.matmul_flops * np.array([share(n) for n in self.lengths]))

    def _other(self, op: Op) -> NDArray[np.float64]:
        draft, shape, traffic = self.draft, self.draft.shape, TRAFFIC[op]
        tensor = draft.num_tensor
        width = shape.model_dim / tensor
        mlp = max(1, shape.experts_per_token) * shape.mlp_dim / tensor
        per_token = traffic.width * width
        per_token += (traffic.gated if shape.gated else traffic.plain) * mlp
        per_token += traffic.gathered * shape.model_dim * (draft.token_parts > 1)
        times = np.full_like(self.lengths, traffic.prefix)
        times[-1] = traffic.last_prefix
        before = draft.num_sequences * (np.cumsum(self.lengths) - self.lengths)
        kv = 2 * shape.kv_heads(tensor) * shape.head_dim
        moved = draft.itemsize * (self.tokens * per_token + times * before * kv)
        if op is Op.B:
            moved = moved + EXPERT_BYTES * shape.expert_weights / tensor
        return moved / self.bandwidth + KERNELS[op] * self.hardware.launch

    def _collectives(self, op: Op) -> NDArray[np.float64]:
        draft, parts = self.draft, self.draft.num_tensor
        if parts == 1:
            return np.zeros_like(self.lengths)
        moved = self.tokens * draft.shape.model_dim * draft.itemsize * (parts - 1) / parts
        exposed = EXPOSED[op] / (2 if draft.config.executor.halves else 1)
        return exposed * moved / self.hardware.bandwidth(parts)


def _wait_for_copies(draft: Draft, hardware: Hardware, by_op: Mapping[Op, Times]) -> None:
    """Add what the copies of an action take longer than its computation."""
    if not draft.num_host_layers:
        return
    sizes = draft.sizes
    layers = np.minimum(draft.num_host_layers, draft.layers_per_stage)[:, None]
    lengths = np.array(draft.lengths)
    ring, deferred = (
        layers * _nbytes(values) * lengths / draft.lengths[0] / hardware.host_link
        for values in (sizes.residuals, sizes.deferred)
    )
    copies = {Op.F: ring, Op.B: ring, Op.I: ring + deferred, Op.W: ring + deferred}
    for op, seconds in copies.items():
        by_op[op]["offload"] = np.maximum(0, seconds - sum(by_op[op].values()))


def _nbytes(values: tuple[Value, ...]) -> int:
    return sum(value.nbytes for value in values)
