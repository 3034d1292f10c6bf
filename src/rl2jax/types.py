"""The seams between the rooms: what a policy sees, and what a rollout leaves behind."""

from typing import Any, NamedTuple

import chex

PyTree = Any


class TrialObservation(NamedTuple):
    """What an agent sees at one step of a trial: the tuple (s, a, r, d) of Duan et al. 2016, section 2.3.

    Attributes:
      obs: the environment's observation, shaped as its space says (bandits: float32 [1], zeros).
      prev_action: the action taken at the previous step; int32 [] or float32 [action_size].
      prev_reward: the reward of the previous step; float32 [].
      prev_done: 1.0 if the previous step ended an *episode* (not the trial); float32 [].
      privileged: `TaskDistribution.privileged`, what planners and teachers may look at; networks never do.

    At the first step of a trial `prev_action` and `prev_reward` are zero and `prev_done` is
    `Trial.first_step_flag` (appendix A; 0 by default).
    """

    obs: chex.Array
    prev_action: chex.Array
    prev_reward: chex.Array
    prev_done: chex.Array
    privileged: PyTree = ()


class Trajectory(NamedTuple):
    """One trial, or, time-major, a batch of them: leaves [num_steps, ...] or [num_steps, num_trials, ...].

    Of a lane, in which trial follows trial (`rollout_lane`), and of a batch of lanes, likewise.

    Attributes:
      trial_obs: the inputs the agent acted on.
      action: the actions it took.
      reward: float32; zero where `mask` is zero.
      episode_done: float32; 1.0 at the last step of each episode.
      mask: float32; 1.0 while the trial was running, 0.0 after its last episode ended. In a lane 0.0 at the last step
        of a trial that the lane's end cuts: what is seen there tells what would have followed.
      expected_reward: float32; `TaskDistribution.expected_reward`, the reward itself where that is not known.
      agent_info: whatever the agent's `step` returned as info (a policy: `PolicyInfo`).
      task_features: `TaskDistribution.task_features(params)`, without a time axis; in a lane, whose tasks change, at
        each step.
      trial_done: in a lane float32; 1.0 at the last step of each trial. Otherwise empty.
      first: in a lane float32; 1.0 at the first step of each trial, where memory starts anew. Otherwise empty.
    """

    trial_obs: TrialObservation
    action: chex.Array
    reward: chex.Array
    episode_done: chex.Array
    mask: chex.Array
    expected_reward: chex.Array
    agent_info: PyTree
    task_features: chex.Array
    trial_done: chex.Array | tuple[()] = ()
    first: chex.Array | tuple[()] = ()


# The axis of trials in a batch of them: time comes first, but for task features. In a batch of lanes it is 1 in all.
TRIALS_AXIS: Any = Trajectory(1, 1, 1, 1, 1, 1, 1, task_features=0, trial_done=1, first=1)  # type: ignore[arg-type]


class PolicyInfo(NamedTuple):
    """What a policy leaves in `Trajectory.agent_info`.

    Attributes:
      log_prob: log-probability (density) of the action taken; float32 [].
      dist_params: parameters of the action distribution; float32 [num_dist_params].
    """

    log_prob: chex.Array
    dist_params: chex.Array


class Metrics(NamedTuple):
    """Diagnostics of one training iteration; every field a float32 scalar.

    Attributes:
      mean_return: undiscounted total reward of a trial, averaged over the batch. In lanes over the trials that ended
        there: the longer a trial, the likelier a lane's end cuts it, so that long ones are under-represented; if none
        ended, over all as far as they went.
      return_standard_error: its standard error over those trials.
      kl: mean KL divergence from the old policy to the new one, per step.
      entropy: mean entropy of the action distribution before the update, per step, in nats.
      surrogate_gain: surrogate objective after the update minus before; TRPO's over a shared network includes the
        values' weighted error.
      line_search_steps: halvings (TRPO: backtracks) before the step was taken; -1 if none was acceptable.
      explained_variance: of the discounted returns, by the baseline before it was fitted to this batch.
      baseline_loss: mean squared error on normalised returns: over the last fitting epoch, or of a network that policy
        and baseline share after the update.
      grad_norm: Euclidean norm of the policy gradient (PPO: mean over minibatches).
      param_norm: Euclidean norm of the policy's parameters after the update.
      finite: 1.0 if the update was finite; 0.0 if it was thrown away.
    """

    mean_return: chex.Array
    return_standard_error: chex.Array
    kl: chex.Array
    entropy: chex.Array
    surrogate_gain: chex.Array
    line_search_steps: chex.Array
    explained_variance: chex.Array
    baseline_loss: chex.Array
    grad_norm: chex.Array
    param_norm: chex.Array
    finite: chex.Array
