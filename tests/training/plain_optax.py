"""Every optimizer from Optax alone, on one device, over each matrix and vector of the model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree import leaves_with_path
from jax.tree_util import keystr

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.config.optimizer import resolve_optimizer
from seq1f1b_jax.training.optimizer import learning_rate_schedule


class Matrix(NamedTuple):
    """One matrix or vector of the model, as plain Optax sees it."""

    name: str
    layer: tuple[int, ...] | None
    shape: tuple[int, ...]


def apart(params):
    """Each matrix and vector of every layer on its own; more than two dims are one matrix.

    But of experts: each has its own.
    """
    found = {}
    for path, leaf in leaves_with_path(params):
        name, layers = keystr(path), getattr(path[0], "name", None) == "layers"
        counted = leaf.shape[: 2 if "experts" in name else 1]
        for layer in np.ndindex(counted) if layers else [None]:
            part = leaf if layer is None else leaf[layer]
            shaped = part.reshape(-1, part.shape[-1]) if part.ndim > 2 else part
            found[Matrix(name, layer, part.shape)] = shaped
    return found


def together(matrices, like):
    """The inverse."""
    def stack(path, leaf):
        own = sorted(key for key in matrices if key.name == keystr(path))
        parts = [matrices[key].reshape(key.shape) for key in own]
        return parts[0] if own[0].layer is None else jnp.stack(parts).reshape(leaf.shape)

    return jax.tree.map_with_path(stack, like)


def plain(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The same from Optax alone, over `apart`."""
    settings, rate = resolve_optimizer(config), learning_rate_schedule(config, num_steps)
    decay = config.weight_decay
    is_matrix = lambda params: {key: leaf.ndim >= 2 for key, leaf in params.items()}  # noqa: E731
    adam = {name: settings[name] for name in ("b1", "b2", "eps") if name in settings}
    if config.name == "adamw":
        whole = optax.adamw(rate, **adam, weight_decay=decay, mask=is_matrix)
    elif config.name == "lion":
        whole = optax.lion(rate, **adam, weight_decay=decay, mask=is_matrix)
    elif config.name == "muon":
        muon = optax.contrib.muon(
            rate, ns_steps=settings["ns_steps"], beta=settings["momentum"], weight_decay=decay,
            nesterov=settings["nesterov"], consistent_rms=settings["consistent_rms"],
        )

        def kind(key, leaf):
            return "adamw" if key.layer is None or leaf.ndim < 2 else "muon"

        whole = optax.partition(
            {"muon": muon, "adamw": optax.adamw(rate, **adam, weight_decay=decay, mask=is_decayed)},
            lambda params: {key: kind(key, leaf) for key, leaf in params.items()},
        )
    else:
        factored = optax.adafactor(
            None, settings["min_dim_size_to_factor"], settings["decay_rate"],
            multiply_by_parameter_scale=settings["parameter_scale"],
            clipping_threshold=settings["clip_rms"],
        )
        whole = optax.chain(
            factored, optax.scale(-1), optax.add_decayed_weights(decay, is_matrix),
            optax.scale_by_learning_rate(rate),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), whole)


def is_decayed(params):
    """A partition hides what is another's."""
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def reference_of(config, params, num_steps):
    """State and jitted update of the plain optimizer."""
    optimizer = plain(config, num_steps)

    @jax.jit
    def update(params, state, grads):
        own = apart(params)
        updates, state = optimizer.update(apart(grads), state, own)
        return together(optax.apply_updates(own, updates), params), state

    return jax.jit(lambda params: optimizer.init(apart(params)))(params), update
