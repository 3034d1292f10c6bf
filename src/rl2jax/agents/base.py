"""The interface of everything that acts in a trial: a GRU policy, Thompson sampling, a planner."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


AgentOf = Callable[[PyTree], Agent]  # from parameters to who acts with them


class ReferenceAgent(NamedTuple):
    """An agent that is not trained, with what a comparison needs to know of it.

    Attributes:
      make: (env, num_episodes, **hyperparameters) -> Agent.
      grid: settings of the hyperparameters to choose among, the default first; one setting: nothing to tune.
      fixed: hyperparameters that are not tuned but belong to its rows, such as tie_breaking or convention.
      teaching: arguments of `make` for an agent that is imitated (`Imitation.temperature`): its info is then
        the values of all actions, float32 [num_actions]. Empty for agents that reveal none.
      draws_per_step: about how many random numbers a step takes, where they dominate its cost: a comparison
        plays such an agent on fewer tasks. Per action, and per sample of its `num_samples` if it has any; 0 for
        agents as cheap as eps-greedy.
      most_episodes: the longest trial it can play; None for any.
    """

    make: Callable[..., Agent]
    grid: tuple[dict[str, Any], ...] = ({},)
    fixed: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    teaching: dict[str, Any] = {}  # noqa: RUF012
    draws_per_step: int = 0
    most_episodes: int | None = None
