"""What several test modules share."""

import jax
import numpy as np


def random_params(networks, seed, scale=0.6):
    """Parameters of `networks.init`'s structure, off its initial point and without compiling it."""
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(np.float32), shapes)
