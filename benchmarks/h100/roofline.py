"""An estimate of times: every kernel at the speed of its matmuls or of its bytes, nothing else.

Launches, reads by the host, and waiting for other devices are left out. So it says which work there
is too much of, not how long a step takes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.h100.kernels import Kernel
from benchmarks.h100.matmuls import is_backward
from seq1f1b_jax.schedule import Costs, Plan, StageCost, simulate

MATMUL_FLOPS = 600e12
"""Per second, bfloat16."""
MEMORY_BYTES = 2.7e12
"""Per second."""
ATTENTION_FLOPS = 500e12
"""Per second, cuDNN's forward."""
ATTENTION_BACKWARD_FLOPS = 450e12

CONSTANTS: Mapping[str, float] = {
    "matmul_tflops": MATMUL_FLOPS / 1e12,
    "memory_tb_per_second": MEMORY_BYTES / 1e12,
    "cudnn_forward_tflops": ATTENTION_FLOPS / 1e12,
    "cudnn_backward_tflops": ATTENTION_BACKWARD_FLOPS / 1e12,
}


def seconds(kernel: Kernel) -> float:
    """Of one launch: matmuls or bytes, whichever takes longer; attention by its matmuls."""
    if kernel.attention:
        backward = is_backward(kernel.instruction)
        return kernel.attention / (ATTENTION_BACKWARD_FLOPS if backward else ATTENTION_FLOPS)
    return max(kernel.flops / MATMUL_FLOPS, kernel.traffic.total / MEMORY_BYTES)


@dataclass(frozen=True)
class Work:
    """What an action does.

    Attributes:
      kernels: launches.
      matmul_flops: without cuDNN's attention.
      attention_flops: of cuDNN's attention.
      other_bytes: of the kernels that are no matmul, no attention and no collective.
      matmul_seconds: of kernels with matmuls, their bytes where these take longer.
      attention_seconds: of cuDNN's attention.
      other_seconds: of `other_bytes`.
    """

    kernels: int = 0
    matmul_flops: int = 0
    attention_flops: int = 0
    other_bytes: int = 0
    matmul_seconds: float = 0.0
    attention_seconds: float = 0.0
    other_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """One kernel after the other."""
        return self.matmul_seconds + self.attention_seconds + self.other_seconds

    def __add__(self, other: "Work") -> "Work":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Work(*(mine + theirs for mine, theirs in pairs))


def work(launches: Iterable[tuple[int, Kernel]]) -> Work:
    """Sum kernels, each as often as it is launched."""
    total = Work()
    for times, kernel in launches:
        spent = {f"{kernel.kind}_seconds": times * seconds(kernel)}
        other = times * kernel.traffic.total if kernel.kind == "other" else 0
        spent = {} if kernel.kind == "collective" else spent
        total += Work(times, times * kernel.flops, times * kernel.attention, other, **spent)
    return total


def floor_seconds(
    cost: StageCost, lengths: Sequence[int], *, num_tensor: int = 1
) -> tuple[float, float]:
    """Matmuls and attention of one layer and sequence, forward and backward, by arithmetic.

    Args:
      cost: sizes of the model.
      lengths: tokens of each chunk.
      num_tensor: devices that share the layer.

    Returns:
      Seconds of the weights' matmuls, and of causal attention at cuDNN's speeds; nothing is
      recomputed.

    Example:
      >>> from seq1f1b_jax.schedule import Costs, Plan, StageCost, simulate
      >>> cost = StageCost(model_dim=1000, num_heads=1, num_kv_heads=1, head_dim=1, mlp_dim=50_000,
      ...                  gated=False, vocab_size=1, layers_per_stage=(1,))
      >>> round(floor_seconds(cost, [1000])[0], 6)  # 6 FLOPs per token and weight
      0.001
    """
    layer = replace(cost, layers_per_stage=(1, 1), recompute="none")  # the second has the head
    costs = layer.costs(lengths)
    found = (costs.weights, costs.forward, costs.backward)
    weights, forward, backward = (np.asarray(one)[0].sum() / num_tensor for one in found)
    attention = (forward - weights) / ATTENTION_FLOPS
    attention += (backward - 2 * weights) / ATTENTION_BACKWARD_FLOPS
    return float(3 * weights / MATMUL_FLOPS), float(attention)


def step_seconds(
    plan: Plan, cost: StageCost, lengths: Sequence[int], *, num_tensor: int = 1
) -> float:
    """A step by matmuls and attention alone, on the executor's machine; 0 for everything else.

    Args:
      plan: the schedule.
      cost: sizes of the model, its layers by stage, and what is recomputed.
      lengths: tokens of each chunk.
      num_tensor: devices that share a layer.
    """
    layer = replace(cost, layers_per_stage=(1, 1), recompute="none").costs(lengths)
    weights, forward, backward = (
        np.asarray(one)[0] / num_tensor for one in (layer.weights, layer.forward, layer.backward)
    )
    matmul, attention = weights / MATMUL_FLOPS, (forward - weights) / ATTENTION_FLOPS
    again = {"matmuls": matmul, "full": matmul + attention}.get(cost.recompute, 0)
    back = 2 * matmul + (backward - 2 * weights) / ATTENTION_BACKWARD_FLOPS + again
    layers = np.array(cost.layers_per_stage)[:, None]
    head = 6 * np.array(lengths) * cost.model_dim * cost.vocab_size / num_tensor / MATMUL_FLOPS
    is_last = np.arange(len(layers))[:, None] == len(layers) - 1
    ahead = layers * (matmul + attention) + is_last * head
    costs = Costs(ahead, layers * back, weights=layers * matmul)
    return float(simulate(plan, costs, machine="executor").makespan)
