"""The MLP of a layer with experts: a router, and gated MLPs of which each token uses a few.

Under tensor parallelism every device has a part of the width of every expert, as of a plain MLP:
each does the same work whatever the router chooses, and what waits for the backward is cut, too.
With whole experts on devices, each would need room for the case that all tokens choose its own.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seq1f1b_jax.models.blocks import GATED, INIT_STD, projection
from seq1f1b_jax.ops.experts import Kernels, expert_mlp
from seq1f1b_jax.ops.router import RouterSums, route
from seq1f1b_jax.ops.tensor import ONE_DEVICE, TensorAxis


class Experts(nnx.Module):
    """Experts of a layer: `sum of weight * down(activation(gate(h)) * up(h))` over those chosen.

    Args:
      model_dim: width of the model.
      mlp_dim: hidden width of an expert.
      num_experts: experts.
      experts_per_token: of which each token uses so many.
      normalize: whether the weights of a token's experts sum to 1.
      output_std: initial standard deviation of the projections into the residual stream.
      rngs: random streams of the initial weights.
      activation: of the gate.
      tensor: axis that the width of every expert is sharded over; sizes are one device's.

    Source: Shazeer et al., arXiv 1701.06538; of gated MLPs: Jiang et al., Mixtral, arXiv
    2401.04088, section 2.1.
    """

    def __init__(
        self, model_dim: int, mlp_dim: int, *, num_experts: int, experts_per_token: int,
        normalize: bool, output_std: float, rngs: nnx.Rngs, activation: str = "silu",
        tensor: TensorAxis = ONE_DEVICE,
    ):
        self.tensor, self.activation = tensor, activation
        self.experts_per_token, self.normalize = experts_per_token, normalize
        self.router = projection(model_dim, num_experts, use_bias=False, rngs=rngs)
        sizes = (num_experts, model_dim, mlp_dim)
        self.experts = ExpertKernels(*sizes, output_std=output_std, rngs=rngs)

    def __call__(self, h: Float[Array, "B T d"]) -> tuple[Float[Array, "B t d"], RouterSums]:
        """The experts' sum, and what the router says of these tokens."""
        kernel = self.router.kernel[...]  # type: ignore[attr-defined]
        weights, experts, sums = route(h, kernel, self.experts_per_token, self.normalize)
        activation = GATED[self.activation]
        y = expert_mlp(h, weights, experts, self.experts.kernels, activation=activation)
        return self.tensor.leave(y), sums


class ExpertKernels(nnx.Module):
    """Weights of all experts; leaves below the name `experts` are stacks (`optimizer.leaves`)."""

    def __init__(
        self, num_experts: int, model_dim: int, mlp_dim: int, *, output_std: float, rngs: nnx.Rngs
    ):
        into, out = (num_experts, model_dim, mlp_dim), (num_experts, mlp_dim, model_dim)
        self.gate = Stacked(into, std=INIT_STD, rngs=rngs)
        self.up = Stacked(into, std=INIT_STD, rngs=rngs)
        self.down = Stacked(out, std=output_std, rngs=rngs)

    @property
    def kernels(self) -> Kernels:
        """As `ops.experts` takes them."""
        return Kernels(*(stack.kernel[...] for stack in (self.gate, self.up, self.down)))


class Stacked(nnx.Module):
    """One matrix of every expert, `[E, in, out]`."""

    def __init__(self, shape: tuple[int, int, int], *, std: float, rngs: nnx.Rngs):
        draw = nnx.initializers.normal(std)
        self.kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32))
