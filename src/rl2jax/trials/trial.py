"""n episodes of one task become one trial (Duan et al. 2016, section 2.2, figure 1)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.envs.base import TaskDistribution, spaces
from rl2jax.settings import Section, bounded, require
from rl2jax.types import PyTree, TrialObservation


@dataclass(frozen=True)
class TrialSettings(Section):
    """What is played.

    Attributes:
      num_episodes: n, episodes in a trial.
      first_step_flag: the termination flag that is shown at a trial's first step.
    """

    section: ClassVar[str] = "trial"
    num_episodes: int = bounded(10, at_least=1)
    first_step_flag: float = bounded(0.0, at_least=0, at_most=1)


class TrialState(NamedTuple):
    """Where a trial stands.

    Attributes:
      env_state: the environment's state, already reset if the last step ended an episode.
      episodes_done: episodes finished so far; int32 [].
    """

    env_state: PyTree
    episodes_done: chex.Array


@dataclass(frozen=True)
class Trial:
    """`num_episodes` episodes of one task; the task is drawn by the caller and passed as `params`.

    Attributes:
      env: the task distribution.
      num_episodes: the paper's n.
      first_step_flag: the termination flag shown at the trial's first step; the paper's text says 0
        (appendix A), runs of its authors used 1.
    """

    env: TaskDistribution
    num_episodes: int
    first_step_flag: float = 0.0

    def __post_init__(self):
        require(self.num_episodes >= 1, "num_episodes (n)", self.num_episodes, "an integer >= 1")

    @property
    def num_steps(self) -> int:
        """The most steps a trial can last."""
        return self.num_episodes * self.env.episode_length

    def reset(self, key: chex.PRNGKey, params: PyTree) -> tuple[TrialState, TrialObservation]:
        """Starts the first episode; previous action, reward and flag are placeholders."""
        obs, env_state = self.env.reset(key, params)
        space = self.env.action_space(None)
        trial_obs = TrialObservation(
            obs=obs,
            prev_action=jnp.zeros(space.shape, space.dtype),
            prev_reward=jnp.zeros((), jnp.float32),
            prev_done=jnp.asarray(self.first_step_flag, jnp.float32),
            privileged=self.env.privileged(env_state, params),
        )
        return TrialState(env_state, jnp.zeros((), jnp.int32)), trial_obs

    def step(self, key: chex.PRNGKey, state: TrialState, action: chex.Array, params: PyTree):
        """One step; an episode that ends is followed by the first observation of the next, same task.

        Actions of a Box space are clipped to its bounds for the environment; the next observation shows
        the action as the agent chose it.

        Returns:
          (state, trial_obs, reward, episode_done, trial_done); reward float32 [], the flags bool [].
        """
        space = self.env.action_space(None)
        applied = jnp.clip(action, space.low, space.high) if isinstance(space, spaces.Box) else action
        obs, env_state, reward, terminated, truncated, _ = self.env.step(key, state.env_state, applied, params)
        episode_done = jnp.logical_or(terminated, truncated)
        reward = jnp.asarray(reward, jnp.float32)
        episodes_done = state.episodes_done + episode_done.astype(jnp.int32)
        privileged = self.env.privileged(env_state, params)
        trial_obs = TrialObservation(obs, action, reward, episode_done.astype(jnp.float32), privileged)
        trial_done = episodes_done >= self.num_episodes
        return TrialState(env_state, episodes_done), trial_obs, reward, episode_done, trial_done


def starts_alike(trial: Trial) -> bool:
    """Whether every trial shows the same at its first step, whatever the task and the key.

    Read off the traced program: what is seen there depends on neither. A bandit's constant observation does not, nor
    does a fixed start state, even where they are computed. Of tasks that only an engine plays it is not known.
    """
    # The placeholders are one trial's as another's; their flag may be traced.
    return trial.env.plays_on_device and _starts_alike(trial.env)


@lru_cache
def _starts_alike(env: TaskDistribution) -> bool:
    def first_sight(key: chex.PRNGKey) -> TrialObservation:
        key_task, key_reset = jax.random.split(key)
        _, trial_obs = Trial(env, num_episodes=1).reset(key_reset, env.sample_params(key_task))
        return trial_obs._replace(privileged=())

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    jax.eval_shape(jax.vmap(first_sight), keys)  # an error of the environment's own is no answer
    try:
        jax.eval_shape(jax.vmap(first_sight, out_axes=None), keys)
    except ValueError:  # "mapped, but out_axes is None"
        return False
    return True
