"""A model outside the pipeline: the reference forward and loss, decoding over a cache, sampling.

What is here knows a `Stage` (`pipeline.stage`) and no model.
"""

from seq1f1b_jax.inference.forward import Cache, forward, logits
from seq1f1b_jax.inference.generate import decode_step, generate, stream
from seq1f1b_jax.inference.reference import naive_attention, reference_loss
from seq1f1b_jax.inference.sampling import chat_prompt, sample_text, text_prompt

__all__ = [
    "Cache", "chat_prompt", "decode_step", "forward", "generate", "logits", "naive_attention",
    "reference_loss", "sample_text", "stream", "text_prompt",
]
