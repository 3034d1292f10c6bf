"""A distribution over tasks, on gymnax's `Environment`."""

from typing import ClassVar, TypeVar

import chex
import jax
import jax.numpy as jnp

from rl2jax.envs.late_imports import put_off
from rl2jax.types import PyTree

# The first import of gymnax: what its environments draw with takes three times as long to load as the rest of it.
with put_off("seaborn", "matplotlib.pyplot"):
    from gymnax.environments import spaces
    from gymnax.environments.environment import Environment, EnvParams, EnvState

TaskState = TypeVar("TaskState", bound=EnvState)
TaskParams = TypeVar("TaskParams", bound=EnvParams)

__all__ = ["EnvParams", "EnvState", "Environment", "TaskDistribution", "TaskParams", "TaskState", "spaces"]


class TaskDistribution(Environment[TaskState, TaskParams]):
    """The rho_M of Duan et al. 2016, section 2.2: `sample_params` draws a task, the rest plays it.

    Subclasses are frozen dataclasses whose fields are sizes, so that equal instances share compiled code.
    A subclass provides

      sample_params(key) -> params                  the task *is* params, nothing of it lives in the state
      reset_env(key, params) -> (obs, state)        a fresh episode of the same task
      step_env(key, state, action, params) -> (obs, state, reward, terminated, info)
      is_terminated(state, params) -> bool          the environment's own ending, without the time limit
      action_space(params), observation_space(params)   `params` may be None: spaces do not depend on the task
      episode_length                                the most steps an episode can last; a static int

    and says `ends_early = True` if `is_terminated` may end an episode sooner, so that `evaluate` wastes no steps.

    `params.max_steps_in_episode` is the time limit that gymnax's `is_truncated` reads.
    """

    # A field or a property of the subclass; a property here could not be a field without a default there.
    episode_length: int

    ends_early: ClassVar[bool] = False

    @property
    def plays_on_device(self) -> bool:
        """Whether it has steps of its own; without, it says what the tasks are, and an engine plays them."""
        return type(self).step_env is not Environment.step_env

    def sample_params(self, key: chex.PRNGKey) -> TaskParams:
        """Draws one task."""
        raise NotImplementedError

    def task_features(self, params: TaskParams) -> chex.Array:
        """What an agent would like to know of the task, and training may tell it; float32 [any], default empty.

        `Objective.task_inference_coefficient` trains the policy's hidden state to predict it.
        """
        del params
        return jnp.zeros((0,), jnp.float32)

    @property
    def num_task_features(self) -> int:
        """How many `task_features` there are; a subclass whose tasks are costly to draw can say so itself."""
        features = jax.eval_shape(lambda key: self.task_features(self.sample_params(key)), jax.random.key(0))
        return features.shape[0]

    def expected_reward(self, state: TaskState, action: chex.Array, params: TaskParams) -> chex.Array | None:
        """Mean reward of an action in a state, float32 []; None (default) where it is not known.

        `Objective.expected_rewards` learns from it in place of the reward; the agent sees rewards only.
        """
        del state, action, params
        return None

    def held_out(self) -> "TaskDistribution":
        """The tasks that `evaluate` draws from: where training draws from a fixed set, others; default these."""
        return self

    def privileged(self, state: TaskState, params: TaskParams) -> PyTree:
        """What the policy does not see of a state and its task, for planners and teachers; default nothing.

        `TrialObservation` carries it beside the observation; no network reads it.
        """
        del state, params
        return ()

    @property
    def default_params(self) -> EnvParams:
        """A task distribution has no default task: raises TypeError."""
        raise TypeError(f"{self.name} has no default task; draw one with sample_params(key)")
