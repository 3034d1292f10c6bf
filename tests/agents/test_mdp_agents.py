"""Reference agents for tabular MDPs: what they believe, what they plan on, and who beats whom."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl2jax.agents import mdp
from rl2jax.agents.mdp import MDP_AGENTS, Belief, MDPAgentState, Prior, planning_agent
from rl2jax.agents.planning import extended_value_iteration, stationary, value_iteration
from rl2jax.agents.posteriors import DirichletPosterior, NormalPosterior, sample_dirichlet, sample_normal
from rl2jax.envs import TabularMDP
from rl2jax.limits import oracle_bound, oracle_value
from rl2jax.trials.evaluate import evaluation_key
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

P_VALUE = 1e-3
ENV = TabularMDP(num_states=3, num_actions=3, episode_length=4)
STATES, ACTIONS, HORIZON = 3, 3, 4
# What an agent is shown at the first step of a trial.
FIRST = TrialObservation(np.int32(0), np.int32(0), np.float32(0.0), np.float32(0.0))


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def made(name, num_episodes=5, **settings):
    spec = MDP_AGENTS[name]
    return spec.make(ENV, num_episodes, **{**spec.fixed, **settings})


# --- What a planning agent remembers and does, whatever it plans on.


def scripted_history(seed, num_episodes):
    """What an agent is shown, and the states and actions that it learns from, as numpy arrays."""
    rng = np.random.default_rng(seed)
    steps = num_episodes * HORIZON
    state = rng.integers(STATES, size=steps)
    state[::HORIZON] = 0
    action = rng.integers(ACTIONS, size=steps)
    reward = rng.normal(size=steps).astype(np.float32)
    shown = TrialObservation(
        obs=state,
        prev_action=np.concatenate([[2], action[:-1]]),  # of the first step: placeholders, not zero here
        prev_reward=np.concatenate([[99.0], reward[:-1]]).astype(np.float32),
        prev_done=(np.arange(steps) % HORIZON == 0).astype(np.float32),
    )
    return shown, state, action, reward


def states_and_actions(agent, shown):
    """The agent's state after each step, and its actions, when it is shown a history of someone else's making."""

    def step(state, seen):
        key, trial_obs = seen
        state, action, _ = agent.step(key, state, trial_obs)
        return state, (state, action)

    @jax.jit
    def play(key):
        return jax.lax.scan(step, agent.init(key), (jax.random.split(key, len(shown.obs)), shown))[1]

    return play(jax.random.key(0))


def action_by_episode_time_and_state(key, belief, episode):
    """A plan that shows in the action when it was made, and which of its entries was looked up."""
    del key, belief
    wanted = episode + jnp.arange(HORIZON)[:, None] + 2 * jnp.arange(STATES)
    return jax.nn.one_hot(wanted % ACTIONS, ACTIONS)


def test_belief_is_the_prior_and_the_counts_of_what_was_shown():
    """All rewards but the last, all moves but each episode's last; nothing of the placeholders."""
    shown, state, action, reward = scripted_history(0, 4)
    agent = planning_agent(ENV, Prior(0.5, 2.0, 3.0), action_by_episode_time_and_state)
    beliefs = states_and_actions(agent, shown)[0].belief
    visits, sums = np.zeros((STATES, ACTIONS)), np.zeros((STATES, ACTIONS))
    moves = np.zeros((STATES, ACTIONS, STATES))
    for time in range(len(state)):
        if time > 0:
            last = state[time - 1], action[time - 1]
            visits[last] += 1
            sums[last] += reward[time - 1]
            if time % HORIZON != 0:
                moves[(*last, state[time])] += 1
        belief = jax.tree.map(lambda x, time=time: x[time], beliefs)
        np.testing.assert_allclose(belief.reward.precision, 2.0 + visits)
        np.testing.assert_allclose(belief.reward.mean, (1.0 + sums) / (2.0 + visits), rtol=1e-5)
        np.testing.assert_allclose(belief.transition.concentration, 3.0 + moves)
    assert moves.sum() == 4 * (HORIZON - 1)


def test_an_agent_plans_at_each_episodes_start_and_follows_the_plan():
    shown, state, _, _ = scripted_history(1, 5)
    agent = planning_agent(ENV, mdp.TRUE_PRIOR, action_by_episode_time_and_state)
    actions = states_and_actions(agent, shown)[1]
    episode, time = np.divmod(np.arange(5 * HORIZON), HORIZON)
    np.testing.assert_array_equal(actions, (episode + time + 2 * state) % ACTIONS)


def primitives(jaxpr):
    """Names of all primitives, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def test_planning_stays_a_branch_under_vmap():
    """A branch is taken once per episode; vmap would turn it into a choice between two results of every step."""
    agent, trial = made("greedy"), Trial(ENV, 5)

    def play(key):
        return rollout(key, agent, trial, ENV.sample_params(key)).action

    played = list(primitives(jax.make_jaxpr(jax.vmap(play))(keys(0, 2)).jaxpr))
    assert played.count("cond") == 1
    # the check can fail: agents that are each at a time of their own all plan at every step
    shown = TrialObservation(*(jnp.zeros(2, dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32, jnp.float32)))
    states = jax.vmap(agent.init)(keys(0, 2))
    stepped = jax.make_jaxpr(jax.vmap(agent.step))(keys(0, 2), states, shown)
    assert "cond" not in primitives(stepped.jaxpr)


# --- What each agent plans on.

PRIORS = {
    "psrl": (0.0, 1.0, 1.0),
    "opsrl": (0.0, 1.0, 1.0),
    "ucrl2": (0.0, 1e-4, 1e-5),
    "beb": (0.0, 1.0, 1.0),
    "eps_greedy": (0.0, 1e-4, 1e-4),
    "greedy": (0.0, 1e-4, 1e-4),
}


@pytest.mark.parametrize("name", [name for name in MDP_AGENTS if name != "random"])
def test_priors_are_those_of_the_convention(name):
    belief = made(name).init(jax.random.key(0)).belief
    mean, precision, concentration = PRIORS.get(name, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(belief.reward.mean, np.full((STATES, ACTIONS), mean))
    np.testing.assert_allclose(belief.reward.precision, np.full((STATES, ACTIONS), precision))
    np.testing.assert_allclose(belief.transition.concentration, np.full((STATES, ACTIONS, STATES), concentration))


NUM_BELIEFS, EPISODE = 40, 3


def random_belief(seed, prior):
    """A batch of beliefs after random visits, the two kinds of counts unrelated."""
    rng = np.random.default_rng(seed)
    shape = (NUM_BELIEFS, STATES, ACTIONS)
    precision = prior[1] + rng.poisson(2.0, shape)
    concentration = prior[2] + rng.poisson(1.0, (*shape, STATES))
    arrays = rng.normal(1.0, 1.0, shape), precision, concentration
    mean, precision, concentration = (jnp.asarray(x, jnp.float32) for x in arrays)
    return Belief(NormalPosterior(mean, precision), DirichletPosterior(concentration))


def policies_of(agent, belief, key):
    """The plan of each belief at the start of an episode."""

    @jax.jit
    @jax.vmap
    def start(belief):
        plan, values = jnp.zeros((HORIZON, STATES), jnp.int32), jnp.zeros((HORIZON, STATES, 0))
        state = MDPAgentState(belief, plan, values, jnp.int32(0), jnp.int32(EPISODE * HORIZON))
        # a reward equal to what is expected moves no mean
        shown = TrialObservation(jnp.int32(0), jnp.int32(0), belief.reward.mean[0, 0], jnp.float32(1.0))
        state, _, _ = agent.step(key, state, shown)
        return state.policy, state.belief

    return start(belief)


def loss(policy, q):
    """The most that following `policy` costs at a time and state, by the action values `q`."""
    policy, q = np.asarray(policy), np.asarray(q)
    return (q.max(-1) - np.take_along_axis(q, policy[..., None], -1)[..., 0]).max()


def greedy_q(belief):
    return value_iteration(stationary(belief.reward.mean, HORIZON), belief.transition.mean)


def ucrl2_q(scaling, prior, accumulate_slack):
    def q(belief):
        confidence = np.log(2 * STATES * ACTIONS * (EPISODE + 1) / 0.05)
        rewards = jnp.maximum(belief.reward.precision - prior[1], 1.0)
        moves = jnp.maximum((belief.transition.concentration - prior[2]).sum(-1), 1.0)
        optimistic = belief.reward.mean + scaling * jnp.sqrt(4 * confidence / rewards)
        slack = scaling * jnp.sqrt(4 * STATES * confidence / moves)
        mdp = stationary(optimistic, HORIZON), belief.transition.mean, slack
        return extended_value_iteration(*mdp, accumulate_slack=accumulate_slack)

    return q


def beb_paper_q(scaling):
    def q(belief):
        left = np.array([3.0, 2.0, 1.0, 0.0], np.float32)[:, None, None]
        moves = 2 * 64 * scaling / (1 + belief.transition.concentration.sum(-1))
        bonus = 1 / (belief.reward.precision + 1) + left * moves
        return value_iteration(belief.reward.mean + bonus, belief.transition.mean)

    return q


def beb_true_prior_q(scaling):
    def q(belief):
        visits = belief.reward.precision - 1
        return value_iteration(stationary(belief.reward.mean + scaling / (2 + visits), HORIZON), belief.transition.mean)

    return q


@pytest.mark.parametrize(
    ("name", "settings", "wanted", "other"),
    [
        ("greedy", {}, greedy_q, beb_true_prior_q(1.0)),
        ("greedy_true_prior", {}, greedy_q, beb_true_prior_q(1.0)),
        ("beb", {"scaling": 0.02}, beb_paper_q(0.02), beb_paper_q(0.03)),
        ("beb_true_prior", {"scaling": 2.0}, beb_true_prior_q(2.0), beb_true_prior_q(3.0)),
        ("ucrl2", {"scaling": 0.2}, ucrl2_q(0.2, PRIORS["ucrl2"], True), ucrl2_q(0.2, PRIORS["ucrl2"], False)),
        ("ucrl2_true_prior", {"scaling": 0.1}, ucrl2_q(0.1, (1, 1, 1), False), ucrl2_q(0.1, (1, 1, 1), True)),
    ],
)
def test_agents_plan_on_what_defines_them(name, settings, wanted, other):
    """The policy maximises the action values of the definition, and a slightly different one would show."""
    belief = random_belief(2, PRIORS.get(name, (1.0, 1.0, 1.0)))
    policy, belief = policies_of(made(name, **settings), belief, jax.random.key(0))

    assert loss(policy, jax.jit(jax.vmap(wanted))(belief)) < 1e-3
    assert loss(policy, jax.jit(jax.vmap(other))(belief)) > 2e-2


def test_posterior_sampling_is_optimistic_over_mdps_drawn_from_the_belief():
    """In the first episode, over MDPs drawn from the prior with the same keys."""
    agent = made("opsrl", num_samples=3)

    @jax.jit
    @jax.vmap
    def both(key):
        prior = agent.init(key)
        state, _, _ = agent.step(key, prior, FIRST)

        def sampled_q(key_sample):
            key_reward, key_transition = jax.random.split(key_sample)
            reward = stationary(sample_normal(key_reward, prior.belief.reward), HORIZON)
            return value_iteration(reward, sample_dirichlet(key_transition, prior.belief.transition))

        key_plan, *_ = jax.random.split(key, 4)
        return state.policy, jax.vmap(sampled_q)(jax.random.split(key_plan, 3))

    policy, q = both(keys(3, 200))
    assert loss(policy, q.max(axis=1)) < 1e-3
    assert loss(policy, q.mean(axis=1)) > 2e-2
    # another draw for each key
    assert scipy.stats.chisquare(np.bincount(np.asarray(policy)[:, -1, -1])).pvalue > P_VALUE


def program(agent):
    """What a step of an agent computes, as text: equal for agents that are the same but in name."""
    return str(jax.make_jaxpr(agent.step)(jax.random.key(0), agent.init(jax.random.key(0)), FIRST))


@pytest.mark.parametrize("convention", ["", "_true_prior"])
def test_special_cases_are_special_cases(convention):
    """PSRL is OPSRL of one sample, greedy is eps-greedy of epsilon 0; and the defaults are other agents."""

    def text(name, **settings):
        return program(made(name + convention, **settings))

    assert text("psrl") == text("opsrl", num_samples=1) != text("opsrl")
    assert text("greedy") == text("eps_greedy", epsilon=0.0) != text("eps_greedy")


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_epsilon_is_the_probability_of_a_uniformly_random_action(epsilon):
    """With 1 it is the random agent: its actions have nothing to do with the plan."""
    shown, state, _, _ = scripted_history(5, 250)
    states, actions = states_and_actions(made("eps_greedy", epsilon=epsilon), shown)
    steps = np.arange(len(state))
    planned = np.asarray(states.policy)[steps, steps % HORIZON, state]
    table = scipy.stats.contingency.crosstab(planned, np.asarray(actions)).count
    same = table.trace() / len(steps)
    wanted = 1 - epsilon * (ACTIONS - 1) / ACTIONS
    assert abs(same - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / len(steps))
    explored = np.bincount((actions - planned)[actions != planned] % ACTIONS)
    assert scipy.stats.chisquare(explored[1:]).pvalue > P_VALUE
    assert (scipy.stats.chi2_contingency(table).pvalue > P_VALUE) == (epsilon == 1.0)


# --- Whole trials.

NUM_TASKS, NUM_EPISODES = 300, 8


class Played(NamedTuple):
    """Actions [tasks, episodes, T], total rewards [tasks] and those expected of an oracle [tasks]."""

    actions: np.ndarray
    total: np.ndarray
    oracle: np.ndarray


@cache
def played(name):
    """An agent of the registry on tasks that are the same for all."""
    agent, trial = made(name, NUM_EPISODES, **MDP_AGENTS[name].grid[0]), Trial(ENV, NUM_EPISODES)

    @jax.jit
    @jax.vmap
    def play(key):
        key_task, key_rollout = jax.random.split(key)
        params = ENV.sample_params(key_task)
        trajectory = rollout(key_rollout, agent, trial, params)
        return trajectory.action, trajectory.reward.sum(), oracle_value(ENV, params, NUM_EPISODES)

    actions, total, oracle = play(keys(4, NUM_TASKS))
    return Played(np.reshape(actions, (NUM_TASKS, NUM_EPISODES, HORIZON)), np.asarray(total), np.asarray(oracle))


@pytest.mark.parametrize("name", ["greedy", "ucrl2", "beb_true_prior"])
def test_who_knows_nothing_acts_uniformly(name):
    """Agents that do not sample find all actions tied in their first episode, at each of its steps."""
    actions = played(name).actions
    for time in range(HORIZON):
        assert scipy.stats.chisquare(np.bincount(actions[:, 0, time], minlength=ACTIONS)).pvalue > P_VALUE
    # and no longer when they know something
    assert (actions[:, -1, 0] == actions[:, -2, 0]).mean() > 0.5


@pytest.mark.parametrize("name", ["opsrl_true_prior", "ucrl2", "beb_true_prior", "eps_greedy_true_prior", "greedy"])
def test_agents_learn_but_do_not_beat_the_oracle(name):
    """On the same tasks: between the random agent and the oracle, by more than chance."""
    _, total, oracle = played(name)
    below = oracle - total
    assert below.mean() > 4 * below.std(ddof=1) / np.sqrt(NUM_TASKS)
    by_chance = NUM_EPISODES * HORIZON * 1.0  # over tasks, the mean of a reward is 1
    assert total.mean() > by_chance + 4 * total.std(ddof=1) / np.sqrt(NUM_TASKS)


def value_of_knowing(reward_mean, transition):
    """Optimal value of state 0 in plain loops."""
    value = np.zeros(STATES)
    for _ in range(HORIZON):
        value = (reward_mean + transition @ value).max(-1)
    return value[0]


def test_oracle_value_is_n_times_the_value_of_the_known_mdp():
    params = jax.jit(jax.vmap(ENV.sample_params))(keys(6, 5))
    mdps = zip(np.asarray(params.reward_mean), np.asarray(params.transition_probs), strict=True)
    wanted = [value_of_knowing(*mdp) for mdp in mdps]
    values = jax.vmap(lambda one: oracle_value(ENV, one, 7))(params)
    np.testing.assert_allclose(values, np.multiply(7, wanted), rtol=1e-5)


def test_the_oracles_bound_is_a_mean_over_the_tasks_of_an_evaluation():
    """Its first tasks are those of `evaluate`: the oracle's mean is above any agent's there."""
    mean, error = oracle_bound(ENV, 7, 300, evaluation_key(3))
    keys_of_tasks = [jax.random.split(jax.random.fold_in(evaluation_key(3), i))[0] for i in range(300)]
    values = [float(oracle_value(ENV, ENV.sample_params(key), 7)) for key in keys_of_tasks[:20]]
    assert oracle_bound(ENV, 7, 20, evaluation_key(3))[0] == pytest.approx(np.mean(values), rel=1e-5)
    assert mean == pytest.approx(np.mean(values), abs=5 * np.std(values) / np.sqrt(20))
    assert error == pytest.approx(np.std(values) / np.sqrt(300), rel=0.5)
    with pytest.raises(ValueError, match="num_tasks must be an integer >= 2, got 1"):
        oracle_bound(ENV, 7, 1, evaluation_key(3))


# --- The registry and bad arguments.


def test_registry_has_both_conventions_and_their_defaults_first():
    names = ["psrl", "opsrl", "ucrl2", "beb", "eps_greedy", "greedy"]
    assert list(MDP_AGENTS) == ["random", *names, *(f"{name}_true_prior" for name in names)]
    for name, spec in MDP_AGENTS.items():
        if name != "random":
            assert spec.fixed["convention"] == ("true_prior" if name.endswith("_true_prior") else "paper")
            assert spec.make is getattr(mdp, name.removesuffix("_true_prior"))
        assert (spec.draws_per_step > 0) == ("psrl" in name)
        settings = [tuple(setting.values()) for setting in spec.grid]
        assert len(set(settings)) == len(settings)


@pytest.mark.parametrize("name", ["ucrl2", "beb", "ucrl2_true_prior", "beb_true_prior"])
def test_the_default_scaling_is_the_first_of_the_grid(name):
    first, second, *_ = MDP_AGENTS[name].grid
    assert program(made(name)) == program(made(name, **first)) != program(made(name, **second))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (mdp.psrl, {"convention": "prior"}, "convention must be one of paper, true_prior, got 'prior'"),
        (mdp.greedy, {"convention": ""}, "convention must be"),
        (mdp.opsrl, {"num_samples": 0}, "num_samples must be an integer >= 1, got 0"),
        (mdp.ucrl2, {"scaling": -0.1}, "scaling must be >= 0, got -0.1"),
        (mdp.beb, {"scaling": float("nan")}, "scaling must be >= 0, got nan"),
        (mdp.eps_greedy, {"epsilon": 1.5}, r"epsilon must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(ENV, 5, **arguments)


def test_an_oracle_of_no_episodes_is_refused():
    with pytest.raises(ValueError, match=r"num_episodes \(n\) must be an integer >= 1, got 0"):
        oracle_value(ENV, ENV.sample_params(jax.random.key(0)), 0)
