"""Model FLOPs of a step: what the mathematics needs, whatever the program recomputes."""

from seq1f1b_jax.pipeline.stage import Stage


def step_flops(
    stage: Stage,
    *,
    num_layer_params: int,
    num_sequences: int,
    seq_len: int,
    pairs: float | None = None,
) -> float:
    """FLOPs of forward and backward over a step.

    A weight takes part in one multiply-add per token forward and two backward: 6 FLOPs. Causal
    attention has `seq_len (seq_len + 1) / 2` query-key pairs per query head, each `2 * 2 *
    head_dim` FLOPs forward and twice that backward. The head is counted, the embedding lookup is
    not.

    Args:
      stage: the model.
      num_layer_params: parameters of all layers together.
      num_sequences: sequences per step.
      seq_len: tokens per sequence.
      pairs: query-key pairs of a sequence, where a window or documents hide some.

    Example:
      >>> tokens_per_second * step_flops(...) / tokens_per_step  # model FLOPs per second
    """
    matmul_params = num_layer_params + stage.vocab_size * stage.model_dim
    pairs = seq_len * (seq_len + 1) / 2 if pairs is None else pairs
    attention = 12 * pairs * stage.num_heads * stage.head_dim * stage.num_layers
    return num_sequences * (6.0 * matmul_params * seq_len + attention)
