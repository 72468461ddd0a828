"""How far the gradients of two computations are apart, leaf by leaf."""

import numpy as np
from jax.tree import leaves_with_path
from jax.tree_util import keystr


def relative_errors(actual, expected) -> dict[str, float]:
    """max|difference| / max|reference| for every leaf, by its path.

    One gradient is zero by mathematics, so its reference holds nothing but rounding: a bias of the
    keys without rotary adds the same number to all scores of a query, which softmax ignores. That
    leaf is measured against the gradient of the key kernel beside it.
    """
    expected_leaves = named_leaves(expected)
    every_scale = dict(expected_leaves)
    errors = {}
    for path, leaf in leaves_with_path(actual):
        name = keystr(path)
        reference = expected_leaves.pop(name)
        assert leaf.shape == reference.shape, name
        scale = reference
        if name.endswith("['key']['bias']"):
            scale = every_scale[name.replace("bias", "kernel")]
        difference = np.abs(np.asarray(leaf) - reference)
        errors[name] = float(np.max(difference) / np.max(np.abs(scale)))
    assert not expected_leaves, f"leaves without a gradient: {list(expected_leaves)}"
    return errors


def named_leaves(tree) -> dict[str, np.ndarray]:
    return {keystr(path): np.asarray(leaf) for path, leaf in leaves_with_path(tree)}
