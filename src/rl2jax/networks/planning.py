"""A network with a table for its memory, which plans on what the table holds.

Beyond the paper, whose memory is a GRU. Visits, rewards and moves are counted exactly; what is learned is how to use
them: the prior, bonuses for what is little known, and what to make of the plans. It starts as a planner with a constant
bonus, and learns from reward. Value iteration inside a network is that of Tamar et al. 2016 (value iteration networks);
bonuses in the plan those of Kolter & Ng 2009, here learned from reward as functions of the counts and of the time that
is left; action values of the task as inputs of the policy those of Bhatia et al. 2023 (RL³).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rl2jax.networks.base import Networks, PolicyOutputs
from rl2jax.types import PyTree, TrialObservation

# Value iterations side by side. The first starts with a bonus of `PlanningNetwork.initial_bonus` over 2 + visits, as
# the reference agent "beb_true_prior" has it, the others with these; all learn bonuses of their own.
_OTHER_BONUSES = (0.0, 4.0, 10.0)
PLANS = 1 + len(_OTHER_BONUSES)
_INITIAL_SCALE = 10.0  # nats of logit for a unit of value
_PAIR_INPUTS, _TIME_INPUTS = 4, 3
_POLICY_INPUTS = 2 * PLANS + _PAIR_INPUTS + _TIME_INPUTS + 1
_VALUE_INPUTS = 3 * PLANS + _TIME_INPUTS + 1


class Counts(NamedTuple):
    """What was seen in a trial; S states, A actions.

    Attributes:
      visits: actions taken in each state; float32 [S, A].
      rewards: their sum; float32 [S, A].
      moves: states seen afterwards; float32 [S, A, S]. Not those after an episode's last step, which nobody sees.
      start: the state that the present episode began in; int32 [].
      state: the present state; int32 [].
      step: index of the present step in its episode; int32 [], -1 before the trial.
      time: its index in the trial; int32 [], -1 before the trial.
    """

    visits: chex.Array
    rewards: chex.Array
    moves: chex.Array
    start: chex.Array
    state: chex.Array
    step: chex.Array
    time: chex.Array


class Layer(NamedTuple):
    """A dense layer: float32 [inputs, outputs], [outputs]."""

    matrix: chex.Array
    bias: chex.Array


class PlannerWeights(NamedTuple):
    """Weights of one network, policy or baseline.

    Attributes:
      prior: mean reward, logarithm of its weight in visits, logarithm of the weight of each next state in moves; [3].
        It starts as that of the paper's distribution of MDPs.
      optimism: of each plan's bonus, that of Kolter & Ng; [PLANS].
      bonus: two layers, from what is known of a pair of state and action to what is added to its bonus in each plan.
      readout: two layers, to the logit of an action, or to the value.
      scale: logarithm of how many nats of logit a unit of the first plan's value is; [].
    """

    prior: chex.Array
    optimism: chex.Array
    bonus: tuple[Layer, Layer]
    readout: tuple[Layer, Layer]
    scale: chex.Array


class Plan(NamedTuple):
    """Value iteration on what was known at N steps.

    Attributes:
      values: of each state with h steps to go, h from 0 to the horizon; float32 [horizon + 1, PLANS, S, N].
      unknown: mean over all pairs of the weight of the prior in their estimated reward; float32 [N].
    """

    values: chex.Array
    unknown: chex.Array


class Pairs(NamedTuple):
    """What is known of pairs of state and action at N steps; leaves [..., A, N], of one state or of all.

    Attributes:
      reward: posterior means of the rewards.
      bonus: in each plan; [PLANS, ..., A, N].
      share: of one observed move in the estimated probabilities.
      inputs: of the bonuses, but for the time; [_PAIR_INPUTS, ..., A, N].
    """

    reward: chex.Array
    bonus: chex.Array
    share: chex.Array
    inputs: chex.Array


class Outlook(NamedTuple):
    """What is seen ahead at N steps.

    Attributes:
      values: of the present state's actions, to the episode's end; float32 [PLANS, A, N].
      start_values: of the state that the episode began in, for a whole episode; float32 [PLANS, N].
      pairs: of the present state.
      unknown: as in the plan; float32 [N].
      time: as inputs; float32 [_TIME_INPUTS, N].
    """

    values: chex.Array
    start_values: chex.Array
    pairs: Pairs
    unknown: chex.Array
    time: chex.Array


class Planner(nn.Module):
    """Declares the parameters of one network; calling it returns them as `PlannerWeights`.

    Their shapes depend neither on states and actions nor on the horizon, which say what a step costs.
    """

    hidden: int
    readout_inputs: int
    num_states: int
    num_actions: int
    horizon: int
    initial_bonus: float

    @property
    def num_outputs(self) -> int:
        """A logit for each action, or a value."""
        return self.num_actions if self.readout_inputs == _POLICY_INPUTS else 1

    @property
    def multiplications(self) -> tuple[int, int]:
        """Of one step: in plans, whose factors are counts and values; and in layers."""
        pairs = self.num_states * self.num_actions
        plans = PLANS * self.num_states * (pairs + self.num_actions)
        bonus = self.hidden * (_PAIR_INPUTS + _TIME_INPUTS + PLANS)
        readout = self.num_outputs * self.hidden * (self.readout_inputs + 1)
        return plans, bonus * (self.num_actions + pairs // self.horizon) + readout

    @nn.compact
    def __call__(self) -> PlannerWeights:
        """Returns the weights."""
        xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros_init()

        def layer(name: str, inputs: int, outputs: int, init=xavier) -> Layer:
            return Layer(self.param(name, init, (inputs, outputs)), self.param(f"{name}_bias", zeros, (outputs,)))

        return PlannerWeights(
            self.param("prior", lambda key: jnp.array([1.0, 0.0, 0.0])),
            self.param("optimism", lambda key: jnp.array([self.initial_bonus, *_OTHER_BONUSES])),
            (layer("bonus1", _PAIR_INPUTS + _TIME_INPUTS, self.hidden), layer("bonus2", self.hidden, PLANS, zeros)),
            (layer("readout1", self.readout_inputs, self.hidden), layer("readout2", self.hidden, 1, zeros)),
            self.param("scale", lambda key: jnp.log(_INITIAL_SCALE)),
        )


def no_counts(num_states: int, num_actions: int) -> Counts:
    """Before a trial."""
    pairs, zero = (num_states, num_actions), jnp.zeros((), jnp.int32)
    return Counts(jnp.zeros(pairs), jnp.zeros(pairs), jnp.zeros((*pairs, num_states)), zero, zero, zero - 1, zero - 1)


def count(counts: Counts, trial_obs: TrialObservation) -> Counts:
    """What is known at the next step, when `trial_obs` is seen: the previous one's reward, and where it led."""
    taken, ended = (counts.state, trial_obs.prev_action), trial_obs.prev_done
    happened = (counts.time >= 0).astype(jnp.float32)
    step = jnp.where(ended > 0, 0, counts.step + 1)
    return Counts(
        counts.visits.at[taken].add(happened),
        counts.rewards.at[taken].add(happened * trial_obs.prev_reward),
        counts.moves.at[(*taken, trial_obs.obs)].add(happened * (1.0 - ended)),
        jnp.where(step == 0, trial_obs.obs, counts.start),
        trial_obs.obs,
        step,
        counts.time + 1,
    )


def _dense(layer: Layer, x: chex.Array) -> chex.Array:
    """[inputs, ...] to [outputs, ...]: what is computed at once comes last."""
    return jnp.einsum("io,i...->o...", layer.matrix, x) + layer.bias.reshape(-1, *[1] * (x.ndim - 1))


def _two_layers(layers: tuple[Layer, Layer], x: chex.Array) -> chex.Array:
    return _dense(layers[1], jnp.tanh(_dense(layers[0], x)))


def time_inputs(time: chex.Array, horizon: int, trial_steps: int) -> chex.Array:
    """The time that is left at steps with these indices, int32 [N]; float32 [_TIME_INPUTS, N].

    After the end of a trial of that length it stays at one step.
    """
    left = jnp.maximum(trial_steps - time, 1).astype(jnp.float32)
    return jnp.stack([left / trial_steps, jnp.log(left / horizon), jnp.minimum(1.0, horizon / left)])


def know_pairs(weights: PlannerWeights, counts: Counts, time: chex.Array) -> Pairs:
    """Estimates and bonuses of pairs.

    Args:
      weights: of the network.
      counts: visits and rewards [..., A, N], moves [..., A, S, N].
      time: float32 [_TIME_INPUTS, N].
    """
    mean, weight, move_weight = weights.prior[0], jnp.exp(weights.prior[1]), jnp.exp(weights.prior[2])
    num_states, moves_seen = counts.moves.shape[-2], counts.moves.sum(axis=-2)
    unknown, unknown_moves = weight / (weight + counts.visits), move_weight / (move_weight + moves_seen / num_states)
    reward = (weight * mean + counts.rewards) / (weight + counts.visits)
    inputs = jnp.stack([unknown, jnp.sqrt(unknown), reward, unknown_moves])
    time = time.reshape(len(time), *[1] * (reward.ndim - 1), -1)
    timed = jnp.concatenate([inputs, jnp.broadcast_to(time, (len(time), *reward.shape))])
    share = 1.0 / (num_states * move_weight + moves_seen)
    optimism = weights.optimism.reshape(-1, *[1] * reward.ndim)
    bonus = optimism * unknown / (1.0 + unknown) + _two_layers(weights.bonus, timed)
    return Pairs(reward, bonus, share, inputs)


def make_plan(weights: PlannerWeights, counts: Counts, horizon: int, trial_steps: int) -> Plan:
    """Value iteration on what is known at each of N steps; counts have leaves [..., N].

    V_h(s) = max_a r(s, a) + b(s, a) + sum_s' P(s' | s, a) V_{h-1}(s'), with V_0 = 0: r and P are the means of conjugate
    posteriors with the learned prior, b the learned bonus.
    """
    pairs = know_pairs(weights, counts, time_inputs(counts.time, horizon, trial_steps))
    optimistic, move_weight = pairs.reward + pairs.bonus, jnp.exp(weights.prior[2])
    num_states, width = counts.moves.shape[0], counts.moves.shape[-1]

    def backup(value, _):
        # The prior's part apart, so that no derivative with respect to all moves is needed.
        expected = jnp.einsum("satn,ktn->ksan", counts.moves, value) + move_weight * value.sum(axis=1)[:, None, None]
        value = (optimistic + pairs.share * expected).max(axis=2)
        return value, value

    nothing = jnp.zeros((PLANS, num_states, width))
    _, values = jax.lax.scan(backup, nothing, None, length=horizon)
    return Plan(jnp.concatenate([nothing[None], values]), pairs.inputs[0].mean(axis=(0, 1)))


def look_ahead(weights: PlannerWeights, counts: Counts, plan: Plan, horizon: int, trial_steps: int) -> Outlook:
    """One more step of value iteration, from the present state with what is known now.

    Args:
      weights: of the network.
      counts: of the present state: visits and rewards [A, N], moves [A, S, N].
      plan: that was made last.
      horizon: steps in an episode.
      trial_steps: steps in a trial.
    """
    time = time_inputs(counts.time, horizon, trial_steps)
    pairs = know_pairs(weights, counts, time)
    following = horizon - 1 - jnp.clip(counts.step, 0, horizon - 1)
    after = jnp.take_along_axis(plan.values, following[None, None, None], axis=0)[0]
    expected = (counts.moves * after[:, None]).sum(axis=2) + jnp.exp(weights.prior[2]) * after.sum(axis=1)[:, None]
    start_values = jnp.take_along_axis(plan.values[-1], counts.start[None, None], axis=1)[:, 0]
    values = pairs.reward + pairs.bonus + pairs.share * expected
    return Outlook(values, start_values, pairs, plan.unknown, time)


def action_logits(weights: PlannerWeights, outlook: Outlook) -> chex.Array:
    """Of each action: the first plan's values, scaled, and what the readout adds; float32 [A, N]."""
    values = outlook.values - outlook.values.mean(axis=1, keepdims=True)
    common = jnp.concatenate([outlook.time, outlook.unknown[None]])
    common = jnp.broadcast_to(common[:, None], (len(common), *values.shape[1:]))
    inputs = jnp.concatenate([values, outlook.pairs.bonus, outlook.pairs.inputs, common])
    return jnp.exp(weights.scale) * values[0] + _two_layers(weights.readout, inputs)[0]


def state_value(weights: PlannerWeights, outlook: Outlook, horizon: int) -> chex.Array:
    """The readout of what the plans promise until the episode's end and in those that follow; float32 [N]."""
    now, later = outlook.values.max(axis=1) / horizon, outlook.start_values / horizon
    inputs = jnp.concatenate([now, later, later * outlook.time[0], outlook.time, outlook.unknown[None]])
    return _two_layers(weights.readout, inputs)[0]


class PlannerState(NamedTuple):
    """What one step of the policy hands to the next: what it has seen, and what it made of it."""

    counts: Counts
    plan: Plan


@dataclass(frozen=True)
class PlanningNetwork(Networks):
    """Policy and baseline that count and plan, with weights of their own.

    `units` is the size of the hidden layers of bonuses and readouts. Attributes that tell of matrices and gates have no
    effect.

    Attributes:
      horizon: steps in an episode.
      initial_bonus: as `Planner.initial_bonus`.
    """

    horizon: int = 0
    initial_bonus: float = 1.5

    @property
    def policy_network(self) -> Planner:
        """Declaration of the policy's parameters."""
        return self._network(_POLICY_INPUTS)

    @property
    def baseline_network(self) -> Planner:
        """Declaration of the baseline's parameters."""
        return self._network(_VALUE_INPUTS)

    def _network(self, readout_inputs: int) -> Planner:
        return Planner(
            self.units, readout_inputs, self.observation.size, self.action.size, self.horizon, self.initial_bonus
        )

    def initial_state(self) -> PlannerState:
        """Nothing is known."""
        num_states = self.observation.size
        nothing = jnp.zeros((self.horizon + 1, PLANS, num_states, 1))
        return PlannerState(no_counts(num_states, self.action.size), Plan(nothing, jnp.zeros((1,))))

    def step(self, weights: Any, state: PyTree, trial_obs: TrialObservation) -> tuple[PyTree, chex.Array]:
        """One step of the policy: (state, logits [A])."""
        counts = count(state.counts, trial_obs)
        plan = jax.lax.cond(
            counts.time % self.horizon == 0,  # never meets a batched value, so that a branch it stays under `jax.vmap`
            lambda: make_plan(weights, _alone(counts), *self._steps),
            lambda: state.plan,
        )
        logits = action_logits(weights, look_ahead(weights, _alone(_of_present_state(counts)), plan, *self._steps))
        return PlannerState(counts, plan), logits[:, 0]

    @property
    def _steps(self) -> tuple[int, int]:
        return self.horizon, self.trial_steps

    def policy_outputs(self, policy_params: PyTree, trial_obs: TrialObservation) -> PolicyOutputs:
        """Logits over a trial; float32 [num_steps, A]."""
        weights: Any = self.policy_network.apply(policy_params)
        return self._split(action_logits(weights, self._outlook(weights, trial_obs)).T)

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["baseline"].
          trial_obs: of the trial.
          task_features: ignored.
        """
        del task_features
        weights: Any = self.baseline_network.apply(value_params)
        return state_value(weights, self._outlook(weights, trial_obs), self.horizon)

    def _outlook(self, weights: PlannerWeights, trial_obs: TrialObservation) -> Outlook:
        """At every step of a trial."""
        seen = jax.tree.map(lambda x: x.reshape(-1, self.horizon, *x.shape[1:]), trial_obs._replace(privileged=()))

        def advance(counts, seen):
            counts = count(counts, seen)
            return counts, _of_present_state(counts)

        def episode(counts, seen):
            planned_on = count(counts, jax.tree.map(lambda x: x[0], seen))
            counts, present = jax.lax.scan(advance, counts, seen)
            return counts, (planned_on, present)

        _, (planned_on, present) = jax.lax.scan(episode, self.initial_state().counts, seen)
        plan = make_plan(weights, jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), planned_on), *self._steps)
        plan = jax.tree.map(lambda x: jnp.repeat(x, self.horizon, axis=-1), plan)
        present = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 0, -1), present)
        return look_ahead(weights, present, plan, *self._steps)


def _alone(x: PyTree) -> PyTree:
    """As the only one of N steps."""
    return jax.tree.map(lambda leaf: leaf[..., None], x)


def _of_present_state(counts: Counts) -> Counts:
    """The rows of the present state."""
    state = counts.state
    return counts._replace(visits=counts.visits[state], rewards=counts.rewards[state], moves=counts.moves[state])
