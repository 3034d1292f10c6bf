"""What a policy sees at each step of a trial, when a trial ends, and whose memory persists how long."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params

from rl2jax.agents import Agent
from rl2jax.envs import BernoulliBandit, EnvParams, EnvState, TabularMDP, TaskDistribution, spaces
from rl2jax.envs.classic_control import random_cartpole
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.trials.rollout import rollout, steps_apart
from rl2jax.trials.trial import Trial, starts_alike


def counting_agent(act):
    """Remembers how many steps it has made, and the key it was made with; `act(key)` is its action."""

    def init(key):
        return jnp.zeros((), jnp.int32), key

    def step(key, state, trial_obs):
        del trial_obs
        count, birth = state
        return (count + 1, birth), act(key), {"count": count, "birth": jax.random.key_data(birth)}

    return Agent(init, step)


def numpy_rollouts(agent, trial, seed, num_trials, num_steps=None):
    """[num_trials, num_steps, ...] of trials on tasks of their own."""

    @jax.jit
    @jax.vmap
    def play(key):
        key_task, key_rollout = jax.random.split(key)
        return rollout(key_rollout, agent, trial, trial.env.sample_params(key_task), num_steps)

    return jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(seed), num_trials)))


# --- CartPole: episodes of many lengths, so that trials end early.

N, T = 3, 12


@pytest.fixture(scope="module")
def cartpole():
    """6 trials of 3 episodes of at most 12 steps, always pushing left: most poles fall before."""
    trial = Trial(random_cartpole(T), N)
    agent = counting_agent(lambda key: jnp.zeros((), jnp.int32))
    return numpy_rollouts(agent, trial, seed=0, num_trials=6)


def test_a_trial_is_n_episodes(cartpole):
    """The mask is 1 up to the end of the n-th episode and 0 after; flags and rewards stop there too."""
    lengths = []
    for done, mask, reward in zip(cartpole.episode_done, cartpole.mask, cartpole.reward, strict=True):
        ends = np.flatnonzero(done)
        assert len(ends) == N
        lengths += list(np.diff(ends, prepend=-1))
        np.testing.assert_array_equal(mask, np.arange(N * T) <= ends[-1])
        np.testing.assert_array_equal(reward, mask)  # CartPole pays 1 a step
    assert len(set(lengths)) > 2  # the fixture has episodes of several lengths,
    assert max(lengths) <= T
    assert (cartpole.mask[:, -1] == 0).any()  # and trials that end early


def test_inputs_show_the_step_before(cartpole):
    """prev_action and prev_reward are those of the step before, prev_done is its episode's end."""
    seen = cartpole.trial_obs
    running = cartpole.mask[:, 1:] == 1
    np.testing.assert_array_equal(seen.prev_action[:, 1:][running], cartpole.action[:, :-1][running])
    np.testing.assert_array_equal(seen.prev_reward[:, 1:][running], cartpole.reward[:, :-1][running])
    np.testing.assert_array_equal(seen.prev_done[:, 1:][running], cartpole.episode_done[:, :-1][running])
    assert seen.prev_done[:, 1:][running].sum() == 6 * (N - 1)  # the end of the trial itself is never shown


def test_an_episode_starts_afresh_after_the_flag(cartpole):
    """Where prev_done is 1 the observation is a first one: CartPole starts within 0.05 of the origin."""
    starts = (cartpole.trial_obs.prev_done == 1) & (cartpole.mask == 1)
    assert np.abs(cartpole.trial_obs.obs[starts]).max() <= 0.05
    assert np.abs(cartpole.trial_obs.obs[~starts & (cartpole.mask == 1)]).max() > 0.05


def test_agent_state_crosses_episode_ends_and_is_fresh_per_trial(cartpole):
    """The count runs 0, 1, 2, ... through every episode's end, from 0 in each trial, init called once each."""
    np.testing.assert_array_equal(cartpole.agent_info["count"], np.tile(np.arange(N * T), (6, 1)))
    births = cartpole.agent_info["birth"]
    assert (births == births[:, :1]).all()
    assert len(np.unique(births[:, 0], axis=0)) == 6


# --- A GRU policy on MDPs.

FLAG = 1.0
CONFIG = TrainConfig().replace({"trial.num_episodes": 3, "network.units": 6, "trial.first_step_flag": FLAG})
MDP_TRIAL = make_trial(TabularMDP(3, 2, 4), CONFIG)
NETWORKS = make_networks(MDP_TRIAL.env, CONFIG)
POLICY = random_params(NETWORKS, seed=0)["policy"]


@pytest.fixture(scope="module")
def gru_trials():
    """[5 trials, 12 steps] of a GRU policy on MDPs with episodes of 4 steps."""
    return numpy_rollouts(NETWORKS.agent(POLICY), MDP_TRIAL, seed=1, num_trials=5)


@pytest.fixture(scope="module")
def dist_params_fn():
    return jax.jit(jax.vmap(NETWORKS.dist_params, (None, 0)))


def test_the_first_step_has_placeholders(gru_trials, cartpole):
    """Action 0, reward 0, and the flag that the config asks for: 1 here, 0 by default (appendix A)."""
    for trajectory, flag in ((gru_trials, FLAG), (cartpole, 0.0)):
        first = jax.tree.map(lambda x: x[:, 0], trajectory.trial_obs)
        np.testing.assert_array_equal(first.prev_action, 0)
        np.testing.assert_array_equal(first.prev_reward, 0.0)
        np.testing.assert_array_equal(first.prev_done, flag)
        assert first.prev_action.dtype == np.int32
        assert first.prev_reward.dtype == first.prev_done.dtype == np.float32


def test_flags_mark_episode_ends_only(gru_trials):
    """Episodes of 4 steps: ends at 3, 7, 11, shown at 4 and 8; the flag of step 0 is the placeholder."""
    steps = np.arange(12)
    np.testing.assert_array_equal(gru_trials.episode_done, np.tile(steps % 4 == 3, (5, 1)))
    np.testing.assert_array_equal(gru_trials.trial_obs.prev_done[:, 1:], np.tile(steps % 4 == 0, (5, 1))[:, 1:])
    np.testing.assert_array_equal(gru_trials.mask, 1.0)


def test_replay_reproduces_what_the_policy_computed(gru_trials, dist_params_fn):
    """Unrolling over the stored inputs gives the stored distributions and log-probabilities.

    That is the seam between acting and learning: a state that is reset or carried wrongly on one side, or an
    input stored one step late, shows here.
    """
    dist_params = np.asarray(dist_params_fn(POLICY, gru_trials.trial_obs), np.float64)
    np.testing.assert_allclose(dist_params, gru_trials.agent_info.dist_params, atol=1e-5)
    log_probs = dist_params - np.log(np.exp(dist_params).sum(-1, keepdims=True))
    log_prob = np.take_along_axis(log_probs, gru_trials.action[..., None], -1)[..., 0]
    np.testing.assert_allclose(gru_trials.agent_info.log_prob, log_prob, atol=1e-5)


def test_the_hidden_state_remembers_earlier_episodes(gru_trials, dist_params_fn):
    """Forgetting at the first episode's end would give other distributions in the second."""
    second = jax.tree.map(lambda x: np.roll(x, -4, axis=1), gru_trials.trial_obs)  # starts at step 4
    forgetful = np.asarray(dist_params_fn(POLICY, second))[:, :4]
    assert np.abs(forgetful - gru_trials.agent_info.dist_params[:, 4:8]).max(axis=(1, 2)).min() > 1e-2


def test_the_same_key_gives_the_same_trial(gru_trials):
    agent = NETWORKS.agent(POLICY)
    again = numpy_rollouts(agent, MDP_TRIAL, seed=1, num_trials=5)
    jax.tree.map(np.testing.assert_array_equal, again, gru_trials)
    other = numpy_rollouts(agent, MDP_TRIAL, seed=2, num_trials=5)
    assert (other.reward != gru_trials.reward).all()


def test_a_shorter_rollout_is_a_prefix_in_length_only():
    """`num_steps` is static and sets every leaf's length."""
    agent = counting_agent(lambda key: jnp.zeros((), jnp.int32))
    trajectory = jax.eval_shape(
        lambda key: rollout(key, agent, MDP_TRIAL, MDP_TRIAL.env.sample_params(key), num_steps=7), jax.random.key(0)
    )
    assert {x.shape[0] for x in jax.tree.leaves(trajectory._replace(task_features=()))} == {7}


def test_a_one_pull_bandit_trial_is_one_step():
    """The smallest trial: n = 1 of one-step episodes has exactly one step, which ends it."""
    agent = counting_agent(lambda key: jnp.zeros((), jnp.int32))
    trajectory = numpy_rollouts(agent, Trial(BernoulliBandit(2), 1), seed=3, num_trials=4, num_steps=3)
    np.testing.assert_array_equal(trajectory.mask, [[1, 0, 0]] * 4)
    np.testing.assert_array_equal(trajectory.episode_done, [[1, 0, 0]] * 4)
    np.testing.assert_array_equal(trajectory.reward[:, 1:], 0.0)


# --- Continuous actions.


@dataclass(frozen=True)
class PaysTheAction(TaskDistribution[EnvState, EnvParams]):
    """Reward: the sum of the action as the environment received it."""

    episode_length: int = 1

    def sample_params(self, key):
        return EnvParams(max_steps_in_episode=1)

    def reset_env(self, key, params):
        return jnp.zeros(1), EnvState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        return jnp.zeros(1), EnvState(time=state.time + 1), jnp.sum(action), jnp.ones((), bool), {}

    def action_space(self, params=None):
        return spaces.Box(jnp.array([-1.0, -2.0]), jnp.array([1.0, 3.0]), (2,))

    def observation_space(self, params=None):
        return spaces.Box(0.0, 0.0, (1,))


def test_actions_are_clipped_for_the_environment_only():
    """The environment gets (1, -2) for (5, -7); the trajectory and the next input keep what the agent chose."""
    chosen = jnp.array([5.0, -7.0])
    trajectory = numpy_rollouts(counting_agent(lambda key: chosen), Trial(PaysTheAction(), 2), seed=4, num_trials=1)
    np.testing.assert_array_equal(trajectory.reward, [[-1.0, -1.0]])
    np.testing.assert_array_equal(trajectory.action, [[chosen, chosen]])
    np.testing.assert_array_equal(trajectory.trial_obs.prev_action, [[[0.0, 0.0], chosen]])


def test_what_happens_after_the_end_does_not_leak():
    """An infinite reward after the trial's end is 0 in the trajectory, not 0 * inf = NaN."""
    chosen = jnp.array([0.0, 0.0])

    class Explodes(PaysTheAction):
        def step_env(self, key, state, action, params):
            obs, state, _, terminated, info = super().step_env(key, state, action, params)
            return obs, state, jnp.inf, terminated, info

    trial = Trial(Explodes(), 1)
    trajectory = numpy_rollouts(counting_agent(lambda key: chosen), trial, seed=5, num_trials=1, num_steps=3)
    np.testing.assert_array_equal(trajectory.reward, [[np.inf, 0.0, 0.0]])


class StartsAtTheTask(PaysTheAction):
    """Its first observation is the task."""

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs + params.max_steps_in_episode, state

    def sample_params(self, key):
        return super().sample_params(key).replace(max_steps_in_episode=jax.random.randint(key, (), 1, 3))


class StartsAnywhere(PaysTheAction):
    """Its first observation is drawn."""

    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        return obs + jax.random.uniform(key, obs.shape), state


class CannotStart(PaysTheAction):
    """Its reset is wrong."""

    def reset_env(self, key, params):
        raise ValueError("no such state")


@pytest.mark.parametrize(
    ("env", "alike"),
    [
        (BernoulliBandit(3), True),
        (TabularMDP(3, 2, 4), True),
        (PaysTheAction(), True),
        (StartsAtTheTask(), False),
        (StartsAnywhere(), False),
        (random_cartpole(T), False),
    ],
    ids=lambda x: str(x) if isinstance(x, bool) else type(x).__name__,
)
def test_trials_start_alike_where_neither_task_nor_key_is_seen(env, alike):
    assert starts_alike(Trial(env, 2)) == alike
    config = TrainConfig().replace({"trial.num_episodes": 2, "batch.size": 64})
    assert make_networks(env, config).starts_alike == alike
    assert not make_networks(env, config.replace({"network.matmul_precision": "bfloat16"})).starts_alike


def test_the_first_step_s_flag_may_be_traced():
    """As numbers of a config are where many are tried in one program."""
    networks = []

    def played(flag):
        config = TrainConfig().replace({"trial.num_episodes": 3, "batch.size": 12, "network.units": 4})
        config = config.replace({"trial.first_step_flag": flag})
        networks.append(make_networks(BernoulliBandit(2), config))
        return make_trial(BernoulliBandit(2), config).first_step_flag

    assert jax.jit(played)(1.0) == 1.0
    assert networks[0].starts_alike


def test_an_environment_that_cannot_start_says_so():
    with pytest.raises(ValueError, match="no such state"):
        starts_alike(Trial(CannotStart(), 2))


@pytest.mark.parametrize("apart", [1, 2, 5, 9])
def test_steps_apart_are_steps_like_others(apart):
    """More of them than there are is no error."""
    env, config = (
        BernoulliBandit(3),
        TrainConfig().replace({"trial.num_episodes": 5, "batch.size": 15, "network.units": 8}),
    )
    networks, trial = make_networks(env, config), make_trial(env, config)
    agent = networks.agent(random_params(networks, 0)["policy"])

    def play(key, apart):
        return rollout(key, agent, trial, env.sample_params(key), apart=apart)

    keys = jax.random.split(jax.random.key(0), 20)
    within, outside = (jax.jit(jax.vmap(lambda key, n=n: play(key, n)))(keys) for n in (0, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), within, outside)


def test_only_short_trials_that_start_alike_have_steps_apart():
    env = BernoulliBandit(3)
    assert steps_apart(Trial(env, 10)) == 2
    assert steps_apart(Trial(env, 100)) == 0
    assert steps_apart(Trial(random_cartpole(5), 2)) == 0
