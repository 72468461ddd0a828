"""`cudnn`: NVIDIA's fused attention kernels, called as `parts.py` cuts a chunk.

The custom calls are those that XLA knows and `jax.nn.dot_product_attention` emits; here they are
made through the public `jax.ffi`, because that function rounds lse to the queries' dtype and has no
gradient through it. The calls have no sharding rule: every mesh axis is manual (`jax.shard_map`).

The backward adds in no fixed order: two runs may differ in the last bits of gradients.
"""

import json

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from seq1f1b_jax.ops.attention.parts import Kernel
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring

DTYPES = ("bfloat16", "float16")
LARGEST_HEAD = 128
"""Heads of 256 are within Hopper's limits, and the first such call on an H200 did not return."""

AMPERE = (8, 0)

TOKEN_MAJOR = (0, 2, 1, 3)
"""Results are `[B, H, T, D]` by shape and `[B, T, H, D]` in memory."""

CONTRACTIONS = {  # name: dims of both sides that are contracted, batch dims of both sides
    "bmm1": (3, 3, (0, 2), (0, 2)),  # q k^T
    "bmm2": (3, 1, (0, 1), (0, 2)),  # p v
    "bmm1_grad_gemm1": (2, 1, (0, 1), (0, 2)),  # dk
    "bmm1_grad_gemm2": (3, 1, (0, 1), (0, 2)),  # dq
    "bmm2_grad_gemm1": (2, 1, (0, 1), (0, 2)),  # dv
    "bmm2_grad_gemm2": (3, 3, (0, 2), (0, 2)),  # dp
}
NUM_FORWARD = 2
"""The first contractions are the forward's, the others the backward's."""


def reason_against(
    *, dtype: DTypeLike, head_dim: int, platform: str, capability: str | None,
    value_dim: int | None = None, scoring: Scoring = PLAIN,
) -> str | None:
    """Why the kernels cannot run, by what is known before compiling; `None`: they can.

    Args:
      dtype: of queries, keys and values.
      head_dim: D.
      platform: of the device, as in `jax.Device.platform`.
      capability: CUDA compute capability, such as "9.0"; `None`: not known.
      value_dim: width of the heads of values; `None`: D.
      scoring: how scores are made.

    Example:
      >>> reason_against(dtype="float32", head_dim=64, platform="gpu", capability="9.0")
      'cuDNN computes in bfloat16 or float16, not in float32'
    """
    name = jnp.dtype(dtype).name
    if platform not in ("gpu", "cuda"):
        return f"cuDNN needs an NVIDIA GPU, and the program is for {platform}"
    if name not in DTYPES:
        return f"cuDNN computes in {' or '.join(DTYPES)}, not in {name}"
    if head_dim % 8 or head_dim > LARGEST_HEAD:
        return (
            f"cuDNN needs heads of a multiple of 8, at most {LARGEST_HEAD}, and "
            f"head_dim={head_dim}"
        )
    if value_dim not in (None, head_dim):
        return f"cuDNN is called for values as wide as keys, {head_dim}, not {value_dim}"
    if scoring.bends:
        return f"cuDNN's kernel has no {scoring.bent_by}"
    if capability and tuple(map(int, capability.split("."))) < AMPERE:
        return f"cuDNN needs compute capability 8.0 (Ampere), and the GPU has {capability}"
    return None


def forward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B S Hkv D"],
    v: Float[Array, "B S Hkv D"],
    *,
    scale: float,
    causal: bool,
    window: int | None,
) -> tuple[Float[Array, "B Tq Hq D"], Float[Array, "B Hq Tq"]]:
    """See `parts.Kernel`; lse is float32."""
    batch, num_tokens, num_heads, dim = q.shape
    call = jax.ffi.ffi_call(
        "__cudnn$fmhaSoftmax",
        (
            jax.ShapeDtypeStruct((batch, num_heads, num_tokens, dim), q.dtype),
            jax.ShapeDtypeStruct((batch, num_heads, num_tokens), jnp.float32),
            jax.ShapeDtypeStruct((0,), jnp.uint8),
        ),
        output_layouts=(TOKEN_MAJOR, None, None),
        custom_call_api_version=2,
        legacy_backend_config=_config(
            q, k, scale=scale, causal=causal, window=window, backward=False
        ),
    )
    out, lse, _ = call(q, k, v)
    return out.transpose(TOKEN_MAJOR), lse


def backward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B S Hkv D"],
    v: Float[Array, "B S Hkv D"],
    out: Float[Array, "B Tq Hq D"],
    lse: Float[Array, "B Hq Tq"],
    dout: Float[Array, "B Tq Hq D"],
    *,
    scale: float,
    causal: bool,
    window: int | None,
) -> tuple[Float[Array, "B Tq Hq D"], Float[Array, "B S Hkv D"], Float[Array, "B S Hkv D"]]:
    """See `parts.Kernel`; results have q's dtype."""
    batch, num_tokens, num_heads, dim = q.shape
    keys = (batch, k.shape[2], k.shape[1], dim)
    call = jax.ffi.ffi_call(
        "__cudnn$fmhaSoftmaxBackward",
        (
            jax.ShapeDtypeStruct((batch, num_heads, num_tokens, dim), q.dtype),
            jax.ShapeDtypeStruct(keys, q.dtype),
            jax.ShapeDtypeStruct(keys, q.dtype),
            jax.ShapeDtypeStruct((0,), jnp.uint8),
        ),
        output_layouts=(TOKEN_MAJOR, TOKEN_MAJOR, TOKEN_MAJOR, None),
        custom_call_api_version=2,
        legacy_backend_config=_config(
            q, k, scale=scale, causal=causal, window=window, backward=True
        ),
    )
    *grads, _ = call(q, k, v, lse, dout, out)
    dq, dk, dv = (grad.transpose(TOKEN_MAJOR) for grad in grads)
    return dq, dk, dv


KERNEL = Kernel(forward, backward)


def _config(
    q: Array, k: Array, *, scale: float, causal: bool, window: int | None, backward: bool
) -> str:
    """The call's `CudnnfMHABackendConfig`, in the spelling that XLA parses."""
    batch, num_tokens, num_heads, dim = q.shape
    scores = (batch, num_heads, num_tokens, k.shape[1])
    contractions = {
        f"{name}_dot_dimension_numbers": {
            "lhs_contracting_dimensions": [str(left)],
            "rhs_contracting_dimensions": [str(right)],
            "lhs_batch_dimensions": [str(dim) for dim in left_batch],
            "rhs_batch_dimensions": [str(dim) for dim in right_batch],
        }
        for name, (left, right, left_batch, right_batch) in CONTRACTIONS.items()
    }
    names = list(contractions)
    names = names[NUM_FORWARD:] if backward else names[:NUM_FORWARD]
    attention = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": scale,
        "intermediate_tensor_shape": {
            "element_type": {"bfloat16": "BF16", "float16": "F16"}[q.dtype.name],
            "dimensions": [str(size) for size in scores],
            "tuple_shapes": [],
            "layout": {
                "dim_level_types": [],
                "dim_unique": [],
                "dim_ordered": [],
                "minor_to_major": ["3", "2", "1", "0"],
                "tiles": [],
                "element_size_in_bits": "0",
                "memory_space": "0",
                "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
                "pointer_primitive_type": "PRIMITIVE_TYPE_INVALID",
                "dynamic_shape_metadata_prefix_bytes": "0",
            },
            "is_dynamic_dimension": [False] * len(scores),
        },
        "is_flash_attention": True,
        "mask_type": "CAUSAL" if causal else "NO_MASK",
        **{name: contractions[name] for name in names},
        "dropout_rate": 0.0,
        "seed": 42,
        "sliding_window_length": window or 0,
        "max_seg_per_batch": 1,
        "is_paged_attention": False,
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": attention})
