"""One case of the exactness suite."""

from typing import NamedTuple

import jax.numpy as jnp

from seq1f1b_jax.schedule import SCHEDULES


class Case(NamedTuple):
    """One compiled program of the exactness suite."""

    P: int = 2
    D: int = 1
    T: int = 1
    V: int = 1
    M: int = 2
    C: int = 2
    lengths: str = "even"
    family: str = "llama"
    recompute: str = "selective"
    tied: bool = False
    layers: str = "equal"
    schedule: str = "seq1f1b"
    extra_warmup: int = 0
    attention: str = "xla_blockwise"
    batch: int = 1
    masks: str = "causal"
    x64: bool = True
    sequence: bool = False
    halves: bool = False
    unroll: int = 0
    offload: float = 0.0

    @property
    def id(self) -> str:
        flags = [self.masks] * (self.masks != "causal")
        flags += [f"host{self.offload}"] * (self.offload > 0)
        flags += ["tied"] * self.tied + [f"w{self.extra_warmup}"] * (self.extra_warmup > 0)
        virtual = f"V{self.V}" * (self.V > 1)
        data = f"D{self.D}" * (self.D > 1)
        tensor = f"T{self.T}{'s' * self.sequence}{'h' * self.halves}" * (self.T > 1)
        words = [self.name, f"{data}P{self.P}{tensor}{virtual}M{self.M}C{self.C}", self.lengths]
        attention = self.attention.removeprefix("xla_")
        words += [self.family, self.recompute, self.layers, attention, f"B{self.batch}"]
        return "-".join([*words, *flags, "f64" if self.x64 else "f32"])

    @property
    def name(self) -> str:
        """Of the schedule; with one chunk that of its form for whole sequences."""
        whole = {s.chunked_name: name for name, s in SCHEDULES.items() if s.chunked_name}
        return whole[self.schedule] if self.C == 1 else self.schedule

    @property
    def dtype(self):
        return jnp.float64 if self.x64 else jnp.float32

    @property
    def chunk_lengths(self) -> tuple[int, ...]:
        """Even; falling like balanced ones; or odd, rising and coprime."""
        return {
            "even": (8,) * self.C,
            "balanced": tuple(4 * (self.C - c) + 4 for c in range(self.C)),
            "odd": tuple(5 + 2 * c + (c == 2) for c in range(self.C)),
        }[self.lengths]

    @property
    def layers_per_stage(self) -> tuple[int, ...]:
        count = self.P * self.V
        if self.layers == "equal":
            return (2,) * count if count < 4 else (1,) * count
        if self.layers == "balanced":  # beside a head that takes a layer's time
            return (*(2,) * (count - 1), 1)
        return tuple(1 + (stage % 3 == 1) for stage in range(count))
