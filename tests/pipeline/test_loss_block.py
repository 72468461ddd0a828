"""The loss block that is chosen by bytes: no memory of its own, and not a block less."""

from dataclasses import replace

import pytest

from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.pipeline.memory import predict_memory
from seq1f1b_jax.schedule import make_plan


def program(vocab_size: int, loss_block: int | None = None):
    stage = build_stage(
        "llama", num_layers=2, model_dim=256, num_heads=4, mlp_dim=1024, vocab_size=vocab_size
    )
    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=2, num_chunks=2)
    options = ExecutorOptions(loss_block=loss_block)
    step = build_step(stage, plan, make_mesh(1), chunk_lengths=(4096, 2048), options=options)
    return step.program(num_sequences=1)


def workspace(program, loss_block: int) -> int:
    options = replace(program.options, loss_block=loss_block)
    return predict_memory(replace(program, options=options)).workspace


def test_the_head_takes_as_much_scratch_as_the_layers_and_no_more():
    chosen = program(vocab_size=8000)
    block = chosen.options.loss_block
    assert 1024 < block < 4096 and block % 128 == 0
    assert workspace(chosen, block) == workspace(chosen, 1)
    assert workspace(chosen, block + 128) > workspace(chosen, 1)


def test_a_large_vocabulary_has_blocks_of_1024_tokens_all_the_same():
    chosen = program(vocab_size=64000)
    assert chosen.options.loss_block == 1024
    assert workspace(chosen, 1024) > workspace(chosen, 1)


@pytest.mark.parametrize("loss_block", [7, 9000])
def test_a_block_that_was_set_is_kept(loss_block):
    assert program(vocab_size=8000, loss_block=loss_block).options.loss_block == loss_block
