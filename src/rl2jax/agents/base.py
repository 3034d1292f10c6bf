"""The interface of everything that acts in a trial: a GRU policy, Thompson sampling, a planner."""

from collections.abc import Callable
from typing import NamedTuple

import chex

from rl2jax.types import PyTree, TrialObservation


class Agent(NamedTuple):
    """A learning algorithm for one trial; unbatched, `jax.vmap` stays outside.

    Attributes:
      init: key -> state. Called once per trial: whatever the agent remembers starts fresh here.
      step: (key, state, trial_obs) -> (state, action, info). `state` crosses episode ends within a trial.
        At the first step the previous action, reward and flag in `trial_obs` are placeholders.
    """

    init: Callable[[chex.PRNGKey], PyTree]
    step: Callable[[chex.PRNGKey, PyTree, TrialObservation], tuple[PyTree, chex.Array, PyTree]]
