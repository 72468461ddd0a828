"""The learning rate of every step, and what becomes of it in a run that is continued."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from seq1f1b_jax.config import Config, OptimizerConfig
from seq1f1b_jax.config.optimizer import COURSES, optimizer_from, resolve_optimizer

OF_RATES = {"schedule", "learning_rate", "warmup_steps", *COURSES["wsd"]} - {"decay_steps"}
"""Settings that decide the learning rate beside the number of steps."""
BLOCK = 1 << 20
"""Steps whose rates are compared at a time."""


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear to the peak in `warmup_steps`, then by `schedule` to its floor at the last step.

    Of `n` steps, which count from 0, step `k < warmup_steps` has `(k + 1) / (warmup_steps + 1)` of
    the peak, step `warmup_steps` the peak, and steps `n - 1` and later the floor. The rise takes at
    most half of the `n - 1` intervals between steps, so that there is a decay; a single step
    has the peak. From the peak `cosine` and `linear` fall at once; `wsd` (warm-up, stable, decay)
    keeps it and falls linearly over the last `decay_fraction * n` steps; `constant` keeps it, and
    takes its whole warm-up.

    Args:
      config: `decay_steps` is `n`, if set.
      num_steps: of the run; else `n`.

    Source of `wsd`: Hu et al., MiniCPM, arXiv 2404.06395, section 4; its linear decay: Hägele et
    al., arXiv 2405.18392, section 3.

    Example:
      >>> from seq1f1b_jax.config import OptimizerConfig
      >>> rate = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=3), 12)
      >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 3, 7, 11, 12)]
      [0.25, 0.5, 0.75, 1.0, 0.55, 0.1, 0.1]
      >>> config = OptimizerConfig(learning_rate=1.0, warmup_steps=3, schedule="wsd")
      >>> rate = learning_rate_schedule(config, 20)
      >>> [round(float(rate(step)), 3) for step in (2, 3, 15, 16, 17, 18, 19, 20)]
      [0.75, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1]
    """
    last, warmup = (config.decay_steps or num_steps) - 1, warmup_steps(config, num_steps)
    peak, floor = config.learning_rate, config.learning_rate * config.min_learning_rate_ratio
    start = peak / (warmup + 1)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=start, peak_value=peak, warmup_steps=warmup, decay_steps=max(last, 1),
            end_value=floor,
        )
    fall = optax.constant_schedule(peak)
    begin = last_at_peak(config, num_steps)
    if begin is not None and last > begin:
        fall = optax.linear_schedule(peak, floor, last - begin, transition_begin=begin - warmup)
    if not warmup:
        return fall
    return optax.join_schedules([optax.linear_schedule(start, peak, warmup), fall], [warmup])


def warmup_steps(config: OptimizerConfig, num_steps: int) -> int:
    """Steps below the peak at the beginning."""
    if config.schedule == "constant":  # without a decay to leave room for
        return config.warmup_steps
    return min(config.warmup_steps, ((config.decay_steps or num_steps) - 1) // 2)


def last_at_peak(config: OptimizerConfig, num_steps: int) -> int | None:
    """The last step with the peak, counted from 0; `None`: all later ones have it."""
    if config.schedule == "constant":
        return None
    warmup, length = warmup_steps(config, num_steps), config.decay_steps or num_steps
    if config.schedule == "wsd":
        falling = max(1, round(resolve_optimizer(config)["decay_fraction"] * length))
        return max(warmup, length - 1 - falling)
    return warmup


def describe_change(before: Mapping[str, Any], config: Config, step: int) -> str | None:
    """How the learning rate of a continued run deviates from its course, and what keeps it there.

    Args:
      before: the run's configuration up to here, as a tree.
      config: as it is now.
      step: the first one that runs now, counted from 0.

    Returns:
      A line for the user that names the first step with another rate, which may be far ahead:
      that of `wsd` deviates where the earlier course would have fallen. None where all steps have
      the rates that they would have had.

    Example:
      >>> from dataclasses import asdict
      >>> from seq1f1b_jax.config import Config, OptimizerConfig, TrainConfig
      >>> optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=0)
      >>> first, longer = (Config(optimizer=optimizer, train=TrainConfig(n)) for n in (400, 600))
      >>> describe_change(asdict(first), longer, 400)[:63]
      'note: from step 401 on the learning rate is 0.3236 and not 0.1,'
      >>> describe_change(asdict(first), first, 100)
    """
    new, old = config.optimizer, optimizer_from(before["optimizer"])
    length = new.decay_steps or config.train.num_steps
    earlier = old.decay_steps or before["train"]["num_steps"]
    is_same = _of_rates(new) == _of_rates(old)
    if is_same and length == earlier:
        return None
    rates = learning_rate_schedule(new, length), learning_rate_schedule(old, earlier)
    ends = config.train.num_steps, 1 + max(step, length, earlier)  # later ones are as the last
    at = _first_difference(*rates, range(step, min(ends)))
    if at is None:
        return None
    now, was = (float(rate(at)) for rate in rates)
    text = f"note: from step {at + 1} on the learning rate is {now:.4g} and not {was:.4g}, "
    if not is_same:
        return text + "since settings of the optimizer have changed"
    falls = f"over {length} steps now and not over {earlier}"
    if new.schedule == "wsd":
        falls = f"in steps {_falling(new, length)} now and not in {_falling(old, earlier)}"
    cure = f"--optimizer.decay_steps {earlier} keeps the earlier course"
    return f"{text}since it falls {falls}; {cure}"


def _of_rates(config: OptimizerConfig) -> dict[str, Any]:
    settings = asdict(config) | resolve_optimizer(config)
    return {name: settings[name] for name in OF_RATES}


def _first_difference(rate: Callable, other: Callable, steps: range) -> int | None:
    """The first step at which two schedules are apart."""
    for first in range(steps.start, steps.stop, BLOCK):
        block = np.arange(first, min(first + BLOCK, steps.stop))
        one, two = (np.broadcast_to(f(jnp.asarray(block)), block.shape) for f in (rate, other))
        apart = np.abs(one - two) > 1e-6 * np.maximum(one, two)
        if apart.any():
            return int(block[apart.argmax()])
    return None


def _falling(config: OptimizerConfig, length: int) -> str:
    """Steps in which the rate falls, counted from 1."""
    begin = last_at_peak(config, length)
    assert begin is not None
    return f"{begin + 2} to {length}"
