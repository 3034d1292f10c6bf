"""Optimisers of gradient steps, with clipping and a schedule of learning rates, from their settings."""

import math
from collections.abc import Callable
from functools import partial

import chex
import optax

from rl2jax.slow_rl.settings import OptimiserSettings

# Mnih et al. 2016, section 4, with a decay of 0.99. Dividing by an unbiased mean square keeps the first steps, which
# they start from 0, from being ten times the later ones.
_rmsprop = partial(optax.rmsprop, decay=0.99, eps=1e-5, eps_in_sqrt=False, bias_correction=True)
_OPTIMISERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": optax.adam, "rmsprop": _rmsprop}


def schedule(name: str, start: float | chex.Array, steps: int) -> optax.Schedule:
    """From `start`: constant, or linearly or as a cosine to 0 after `steps`."""
    schedules = {
        "constant": optax.constant_schedule(start),
        "linear": optax.linear_schedule(start, 0.0, steps),
        "cosine": optax.cosine_decay_schedule(start, steps),
    }
    return schedules[name]


def make_optimiser(
    settings: OptimiserSettings, learning_rate: float | chex.Array, steps: int
) -> optax.GradientTransformation:
    """An optimiser with clipping, whose learning rate follows the settings' schedule over so many steps."""
    learning_rates = schedule(settings.schedule, learning_rate, steps)
    clip = [optax.clip(settings.clip)]
    if settings.norm_clip < math.inf:
        clip.append(optax.clip_by_global_norm(settings.norm_clip))
    return optax.chain(*clip, _OPTIMISERS[settings.name](learning_rates))
