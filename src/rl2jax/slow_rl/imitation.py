"""Supervised learning of a fast learner: the policy is fitted to a teacher's actions (Duan et al. 2016, section 3.1).

The paper trains its network on trajectories of the Gittins index to show that the architecture is not what
limits it. Here any `Agent` can teach. Either the teacher plays the trials, or the student does and the
teacher says what it would have done in its place (Ross et al. 2011).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent
from rl2jax.settings import bounded
from rl2jax.slow_rl.base import Batch, Problem, SlowRL, SlowRLSettings, State, Work, expected_log_prob
from rl2jax.slow_rl.ppo import minibatch_ascent
from rl2jax.slow_rl.sgd import num_minibatches
from rl2jax.types import PyTree, TrialObservation


@dataclass(frozen=True)
class Imitation(SlowRLSettings):
    """Supervised learning of a teacher's actions, by epochs of first-order steps (section 3.1).

    Attributes:
      teacher: name of the reference agent that is imitated.
      teacher_acts: whether the teacher plays the trials, or the student does and the teacher says what it would have
        done (Ross et al. 2011).
      student_share: where the teacher acts: share of the steps, drawn anew each time, at which the student acts all the
        same, so that the teacher shows how to go on from there.
      temperature: 0: the teacher's action is imitated; above, the softmax at this temperature of the values that it
        gives to all actions, so that ties and near ties are no noise. Needs a teacher that reveals values
        (`ReferenceAgent.teaching`).
      epochs: passes over the batch.
      minibatch_trials: whole trials in a minibatch.
      learning_rate: of the policy.
    """

    section: ClassVar[str] = "imitation"
    name: ClassVar[str] = "imitation"
    needs_teacher: ClassVar[bool] = True
    fits_baseline: ClassVar[bool] = False  # nobody who imitates asks what a state is worth
    teacher: str = ""
    teacher_acts: bool = True
    student_share: float = bounded(0.0, at_least=0, at_most=1)
    temperature: float = bounded(0.0, at_least=0, at_most=1e6)
    epochs: int = bounded(5, at_least=1)
    minibatch_trials: int = bounded(128, at_least=1)
    learning_rate: float = bounded(1e-3, above=0, at_most=10, swept=True)

    def check(self) -> None:
        """A softmax at a lower temperature overflows."""
        self.require(self.temperature == 0 or self.temperature >= 1e-6, "temperature", "0 or at least 1e-06")

    def acting(self, student: Agent, teacher: Agent | None) -> Agent:
        """Teacher or student, step by step, with what the teacher does at each."""
        assert teacher is not None
        return imitating_agent(student, teacher, self.student_share if self.teacher_acts else 1.0)

    def make(self, problem: Problem) -> SlowRL:
        """Epochs on the log-probability of the teacher's actions; a shared network learns its values by the way."""
        steps = self.epochs * num_minibatches(problem.num_trials, self.minibatch_trials)
        optimiser = problem.make_optimiser(self.learning_rate, steps)

        def init(params: PyTree) -> State:
            return State(optimiser.init(params), jnp.zeros((), jnp.int32))

        def step(key: chex.PRNGKey, state: State, params: PyTree, batch: Batch):
            batch = batch._replace(action=taught(batch.agent_info, self.temperature), agent_info=())
            before = expected_log_prob(problem.networks.distribution(batch.old_dist_params), batch.action)
            asked = problem.first_order(batch, _log_prob, before, state.iteration)
            keys = jax.random.split(key, self.epochs)
            params, opt_state, info = minibatch_ascent(
                keys, params, state.opt_state, optimiser, asked, batch, self.minibatch_trials
            )
            return params, State(opt_state, state.iteration + 1), info

        return SlowRL(init, step)

    def work(self) -> Work:
        """Epochs, and one evaluation; what the teacher does is not counted."""
        return Work(self.epochs, self.minibatch_trials)


def _log_prob(log_prob: chex.Array, batch: Batch) -> chex.Array:
    del batch
    return log_prob


class ImitationInfo(NamedTuple):
    """What an imitating agent leaves in `Trajectory.agent_info`.

    Attributes:
      log_prob: log-probability of the student's own action; float32 [].
      dist_params: parameters of the student's action distribution; float32 [num_dist_params].
      teacher_action: what the teacher does here.
      teacher_info: what its `step` returns besides; of one that reveals them, the values of all actions.
    """

    log_prob: chex.Array
    dist_params: chex.Array
    teacher_action: chex.Array
    teacher_info: PyTree


def imitating_agent(student: Agent, teacher: Agent, student_share: float) -> Agent:
    """Student and teacher side by side, both seeing what the one who acts brings about.

    A teacher counts its pulls by the previous action it is shown, so it judges the student's history as its own.

    Args:
      student: a policy, whose info is a `PolicyInfo`.
      teacher: any agent with the same actions.
      student_share: probability of taking the student's action at a step, otherwise the teacher's.
    """

    def init(key: chex.PRNGKey) -> PyTree:
        key_student, key_teacher = jax.random.split(key)
        return student.init(key_student), teacher.init(key_teacher)

    def step(key: chex.PRNGKey, state: PyTree, trial_obs: TrialObservation):
        # Who acts must not hang on what the student draws: `fold_in(key, 0)` is the first key of `split(key)`.
        key_student, key_teacher, key_who = jax.random.split(key, 3)
        student_acts = jax.random.bernoulli(key_who, student_share)
        student_state, student_action, info = student.step(key_student, state[0], trial_obs)
        teacher_state, teacher_action, told = teacher.step(key_teacher, state[1], trial_obs)
        teacher_action = jnp.asarray(teacher_action, student_action.dtype)
        action = jnp.where(student_acts, student_action, teacher_action)
        taught = ImitationInfo(info.log_prob, info.dist_params, teacher_action, told)
        return (student_state, teacher_state), action, taught

    return Agent(init, step)


def taught(acted: ImitationInfo, temperature: float) -> chex.Array:
    """The teacher's action, or the softmax of its actions' values at a temperature."""
    if temperature == 0.0:
        return acted.teacher_action
    return jax.nn.softmax(acted.teacher_info / temperature)
