"""What all peers compute: one llama, one batch."""

from dataclasses import dataclass

import jax

from benchmarks.common import cases
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.llama import Llama
from seq1f1b_jax.pipeline.stage import Params

HEAD_DIM = 64


@dataclass(frozen=True)
class Work:
    """The work of one step.

    Attributes:
      num_ranks: devices or processes.
      num_microbatches: sequences of the step; one each.
      num_chunks: of a sequence, for our step; the peers have none.
      seq_len: tokens of a sequence.
      model_dim: width; heads are of 64.
      num_layers: a multiple of twice the ranks, for interleaving.
      vocab_size: small, since nothing is compared of the head.
    """

    num_ranks: int
    num_microbatches: int
    num_chunks: int
    seq_len: int
    model_dim: int
    num_layers: int
    vocab_size: int = 256

    def stage(self) -> Llama:
        """The model."""
        stage = build_stage(
            "llama", num_layers=self.num_layers, model_dim=self.model_dim,
            num_heads=self.model_dim // HEAD_DIM, vocab_size=self.vocab_size,
        )
        assert isinstance(stage, Llama)
        return stage

    def params(self) -> Params:
        """The same fresh weights for all."""
        return jax.jit(self.stage().init)(jax.random.key(0))

    def batch(self):
        """Tokens and targets `[M, 1, T]`."""
        return cases.random_batch(self.stage(), self.num_microbatches, self.seq_len)
