"""What `python -m benchmarks.gpu` measures: on a GPU, and as a toy on any machine."""

from dataclasses import dataclass

Heads = tuple[int, int, int]
"""Query heads, key/value heads, dim of a head."""


@dataclass(frozen=True)
class Sizes:
    """Shapes of all sections; lengths in tokens.

    Attributes:
      numerics: (sequences, queries, offset, query heads, key/value heads, dim of a head).
      windows: sizes of sliding windows, each with the last shape of `numerics`.
      attention: heads -> (queries, offset) that are timed.
      whole_len: of the call on a whole sequence that these are compared with.
      matmul: side of the square matmul that is the chip's ceiling.
      preset: llama preset of the steps.
      vocab_size: of the steps.
      steps: length -> numbers of chunks.
      presets: of XLA flags; on these GPUs `overlap` is the program of `default`.
      preset_step: (length, chunks, layers) of the step that is compiled with each of them; so few
        layers are unrolled, and `command_buffers` can record whole actions.
      stage: llama preset and sequence length of the stage whose F and B are timed; two layers.
      stage_chunks: number of its chunks.
      loop: (heads, queries, offset) of the attention that runs in loops.
      loop_trips: ticks of the loops that run next to nothing.
      exact: (family, chunks, recompute) of the float32 steps that are compared with `jax.grad`.
      exact_lengths: of their chunks.
      small_len: sequence length of the model whose actions take no longer than their launch.
      small_chunks: numbers of its chunks.
      ranks: at most so many GPUs, if there are several.
      ranks_step: (length, chunks, llama preset) of the step on several GPUs.
      repeats: timings of a program.
      case_seconds: after which no more timings of a program start.
    """

    numerics: tuple[tuple[int, int, int, int, int, int], ...]
    windows: tuple[int, ...]
    attention: dict[Heads, tuple[tuple[int, int], ...]]
    whole_len: int
    matmul: int
    preset: str
    vocab_size: int
    steps: dict[int, tuple[int, ...]]
    presets: tuple[str, ...]
    preset_step: tuple[int, int, int]
    stage: tuple[str, int]
    stage_chunks: int
    loop: tuple[Heads, int, int]
    loop_trips: int
    exact: tuple[tuple[str, int, str], ...]
    exact_lengths: tuple[int, ...]
    small_len: int
    small_chunks: tuple[int, ...]
    ranks: int
    ranks_step: tuple[int, int, str]
    repeats: int
    case_seconds: float


_EVEN = ((8192, 0), (8192, 8192), (8192, 16384), (8192, 24576))
_SHORT = ((512, 7680), (1024, 7168), (2048, 6144), (4096, 28672))

FULL = Sizes(
    numerics=(
        (1, 664, 912, 8, 8, 128),
        (1, 512, 1536, 8, 2, 128),
        (2, 130, 77, 4, 4, 64),
        (1, 256, 1, 4, 1, 64),
        (1, 1000, 24, 4, 4, 128),
        (1, 2048, 0, 8, 2, 128),
        (1, 128, 640, 6, 3, 96),
    ),
    windows=(96, 320),
    attention={(32, 32, 128): _EVEN + _SHORT, (32, 8, 128): _EVEN[::3], (16, 16, 64): _EVEN[::3]},
    whole_len=32768, matmul=8192,
    preset="1.3b", vocab_size=32768, steps={32768: (1, 2, 4, 8), 8192: (1, 2, 4, 8)},
    presets=("default", "memory", "command_buffers", "deterministic"), preset_step=(8192, 4, 4),
    stage=("7b", 32768), stage_chunks=4,
    loop=((32, 32, 128), 4096, 4096), loop_trips=2000,
    exact=(("gpt", 3, "none"), ("llama", 1, "selective"), ("llama", 3, "selective")),
    exact_lengths=(160, 128, 96), small_len=1024, small_chunks=(1, 4),
    ranks=8, ranks_step=(32768, 4, "1.3b"),
    repeats=7, case_seconds=15.0,
)  # fmt: skip
TOY = Sizes(
    numerics=((1, 12, 20, 4, 2, 16),), windows=(),
    attention={(2, 2, 16): ((16, 16),)}, whole_len=32, matmul=32,
    preset="tiny", vocab_size=64, steps={64: (1, 2)},
    presets=("command_buffers", "deterministic"), preset_step=(64, 2, 1),
    stage=("tiny", 64), stage_chunks=2,
    loop=((2, 2, 16), 16, 16), loop_trips=10,
    exact=(("llama", 3, "selective"),), exact_lengths=(20, 16, 12), small_len=32, small_chunks=(2,),
    ranks=2, ranks_step=(64, 2, "tiny"),
    repeats=2, case_seconds=5.0,
)  # fmt: skip
