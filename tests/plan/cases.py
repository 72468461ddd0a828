"""Configurations that meet every model, policy, mesh and schedule; each with its program."""

from seq1f1b_jax.config import (
    Config,
    DataConfig,
    ExecutorConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
)
from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.model.shape import shape_of

SIZES = dict(
    num_layers=6, model_dim=96, num_heads=12, num_kv_heads=4, head_dim=16, mlp_dim=200,
    vocab_size=250, max_positions=512, norm_eps=1e-5, rope_theta=1e4,
)
MODELS = {
    "gpt": dict(family="gpt", positions="learned", tied=True),
    "gpt rotary": dict(family="gpt", positions="rotary", tied=False),
    "llama": dict(family="llama", positions="rotary", tied=False),
    "few heads": dict(family="llama", positions="rotary", tied=False, num_kv_heads=2),
    "llama biases": dict(
        family="llama", positions="rotary", tied=True, qkv_bias=True, output_bias=True, window=100
    ),
    "gemma": dict(
        family="llama", positions="rotary", tied=True, norm_placement="both", qk_norm="head",
        window=100, layer_pattern=["window", "window", "full"], activation="gelu", mlp_bias=True,
    ),
    "experts": dict(
        family="llama", positions="rotary", tied=False, num_experts=5, experts_per_token=3,
        qk_norm="head",
    ),
    "olmo": dict(
        family="llama", positions="rotary", tied=False, norm_placement="after", qk_norm="width",
    ),
}


def config_of(
    model, *, data=1, pipe=2, tensor=1, sequence_parallel=False, schedule="seq1f1b", chunks=3,
    microbatch_size=2, layers_per_stage=None, trainable=None, lora=None, **executor,
):
    """A configuration of 512 tokens, four microbatches."""
    return Config(
        model=ModelConfig(**SIZES | MODELS[model]),
        mesh=MeshConfig(
            data=data, pipe=pipe, tensor=tensor, sequence_parallel=sequence_parallel,
            platform="cpu", layers_per_stage=layers_per_stage,
        ),
        schedule=ScheduleConfig(
            name=schedule, num_microbatches=4, num_chunks=chunks, block=32,
            stages_per_rank=2 if schedule == "seq1f1b-i" else None,
        ),
        executor=ExecutorConfig(**{"compute_dtype": "bfloat16"} | executor),
        data=DataConfig(seq_len=512, microbatch_size=microbatch_size),
        train=TrainConfig(trainable=trainable),
        lora=LoraConfig(rank=0) if lora is None else LoraConfig(rank=4, projections=lora),
    )


HEADS, MLP = ("query", "key", "value", "output"), ("gate", "up", "down")
CASES = {
    "gpt": config_of("gpt"),
    "one rank": config_of("gpt", pipe=1),
    "one rank, untied": config_of("llama", pipe=1, recompute="none"),
    "none": config_of("gpt rotary", recompute="none"),
    "matmuls": config_of("llama", recompute="matmuls", chunks=4),
    "full": config_of("llama biases", recompute="full"),
    "float32": config_of("llama", compute_dtype="float32", pipe=3),
    "unrolled": config_of("gpt", compute_dtype="float32", unroll=8),
    "unrolled bfloat16": config_of("llama", unroll=8, pipe=4),
    "dense": config_of("llama", attention="xla_dense"),
    "tensor": config_of("gpt", tensor=2, recompute="none"),
    "sequence parallel": config_of("llama", tensor=2, sequence_parallel=True),
    "sequence parallel none": config_of(
        "gpt rotary", tensor=2, sequence_parallel=True, recompute="none"
    ),
    "shared heads": config_of("few heads", tensor=4, pipe=1, chunks=2),
    "halves": config_of("gpt", tensor=2, sequence_parallel=True, halves=True),
    "data": config_of("llama", data=2),
    "data and tensor": config_of("gpt", data=2, tensor=2, pipe=2),
    "interleaved": config_of("llama", schedule="seq1f1b-i", chunks=2, pipe=2),
    "split": config_of("gpt", schedule="seq-zb-h1"),
    "split none": config_of("llama", schedule="seq-zb-h1", recompute="none"),
    "split matmuls": config_of("llama", schedule="seq-zb-h1", recompute="matmuls"),
    "split full": config_of("gpt rotary", schedule="seq-zb-h1", recompute="full", pipe=3),
    "lockstep": config_of("llama", schedule="seq1f1b-lockstep", pipe=3),
    "offload": config_of("gpt", offload=0.5),
    "offload split": config_of("llama", offload=0.7, schedule="seq-zb-h1"),
    "loss block": config_of("llama", loss_block=64),
    "balanced layers": config_of("llama", pipe=3, layers_per_stage="balanced"),
    "gemma": config_of("gemma"),
    "gemma, tokens shared": config_of("gemma", tensor=2, sequence_parallel=True, recompute="none"),
    "gemma in halves": config_of("gemma", tensor=2, sequence_parallel=True, halves=True),
    "gemma split": config_of("gemma", schedule="seq-zb-h1", pipe=3),
    "olmo": config_of("olmo", recompute="none"),
    "olmo selective": config_of("olmo", pipe=3),
    "experts": config_of("experts"),
    "experts none": config_of("experts", tensor=2, sequence_parallel=True, recompute="none"),
    "experts in halves": config_of("experts", tensor=2, sequence_parallel=True, halves=True),
    "experts split": config_of("experts", schedule="seq-zb-h1", pipe=3),
    "experts split full": config_of("experts", schedule="seq-zb-h1", recompute="full"),
    "experts split matmuls": config_of("experts", schedule="seq-zb-h1", recompute="matmuls"),
    "experts, two pipelines": config_of("experts", data=2, tensor=2),
    "experts frozen, none": config_of("experts", trainable=("*.attention.*",), recompute="none"),
    "experts train, split": config_of("experts", trainable=("*.gate.*",), schedule="seq-zb-h1"),
    "router trains, split full": config_of(
        "experts", trainable=("*.router.*",), schedule="seq-zb-h1", recompute="full"
    ),
    "lora beside experts, split": config_of("experts", lora=("query",), schedule="seq-zb-h1"),
    "one chunk": config_of("gpt", schedule="1f1b", chunks=1, pipe=4),
    "norms train": config_of("llama", trainable=("*norm*", "last.*")),
    "norms train, none": config_of("gemma", trainable=("*norm*",), recompute="none", data=2),
    "head trains": config_of("gpt rotary", trainable=("head", "layers.mlp.*"), recompute="none"),
    "positions train": config_of("gpt", trainable=("first.table", "last.bias"), tensor=2),
    "heads train, one rank": config_of(
        "llama", pipe=1, trainable=("embedding", "layers.attention.*"), recompute="none"
    ),
    "norms train, split": config_of("llama", trainable=("*norm*",), schedule="seq-zb-h1"),
    "MLP trains, split": config_of("gpt", trainable=("layers.mlp.*",), schedule="seq-zb-h1"),
    "one matrix trains, split full": config_of(
        "llama", trainable=("*.down.kernel",), schedule="seq-zb-h1", recompute="full"
    ),
    "heads train, split matmuls": config_of(
        "llama", trainable=("layers.attention.*",), schedule="seq-zb-h1", recompute="matmuls"
    ),
    "lora, split": config_of("llama", lora=("query", "value", "down"), schedule="seq-zb-h1"),
    "lora, split none": config_of(
        "gpt", lora=(*HEADS, "up"), schedule="seq-zb-h1", recompute="none"
    ),
    "lora, split full": config_of(
        "llama", lora=(*HEADS, *MLP), schedule="seq-zb-h1", recompute="full"
    ),
    "lora, split matmuls": config_of(
        "llama", lora=(*HEADS, *MLP), schedule="seq-zb-h1", recompute="matmuls"
    ),
    "lora": config_of("llama", lora=HEADS),
    "lora of all, none": config_of("llama", lora=(*HEADS, *MLP), recompute="none", data=2),
    "lora, none": config_of("olmo", lora=("query", "value"), recompute="none"),
    "lora, tensor": config_of(
        "few heads", lora=(*HEADS, *MLP), pipe=1, tensor=4, trainable=("last.*", "embedding")
    ),
    "lora in halves": config_of(
        "gpt", lora=(*HEADS, "up", "down"), tensor=2, sequence_parallel=True, halves=True
    ),
    "lora, everything again": config_of("gemma", lora=(*HEADS, *MLP), recompute="full"),
}


def draft_of(config):
    """The draft of a configuration for CPU devices."""
    itemsize = 2 if config.executor.compute_dtype == "bfloat16" else 4
    shape = shape_of(config.model, config.lora, config.trainable)
    return Draft(config, shape, platform="cpu", fused=False, itemsize=itemsize)


def setup_of(config):
    """The run's setup, as `train.py` makes it."""
    from seq1f1b_jax.models import build_stage
    from seq1f1b_jax.training.setup import make_setup

    sizes = {k: v for k, v in vars(config.model).items() if k not in ("stage", "settings")}
    return make_setup(config, build_stage(**sizes, lora=config.lora))


