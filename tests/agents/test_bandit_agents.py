"""Each bandit agent against its definition, by hand or by an independent computation."""

from collections import defaultdict
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl2jax.agents import bandit, reference_agents
from rl2jax.agents.indices import finite_horizon_gittins_table, finite_horizon_place, gittins_table, pair_index
from rl2jax.envs import BernoulliBandit
from rl2jax.limits import bayes_optimal_value
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

NUM_DRAWS = 20_000
AGENTS = reference_agents(BernoulliBandit(2))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def seen(action, reward, done=1.0):
    return TrialObservation(jnp.zeros(1), jnp.int32(action), jnp.float32(reward), jnp.float32(done))


def replies(agent, history, num_draws=1, seed=0):
    """What an agent plays next, having seen [(arm, reward), ...]; [num_draws]."""

    def reply(key):
        key_init, key = jax.random.split(key)
        state, observations = agent.init(key_init), [seen(0, 0.0, 0.0)] + [seen(*pull) for pull in history]
        for i, trial_obs in enumerate(observations):
            state, action, _ = agent.step(jax.random.fold_in(key, i), state, trial_obs)
        return action

    return np.asarray(jax.jit(jax.vmap(reply))(jax.random.split(jax.random.key(seed), num_draws)))


def shares(agent, history, num_arms, num_draws=NUM_DRAWS):
    return np.bincount(replies(agent, history, num_draws), minlength=num_arms) / num_draws


def pulls_of(arms):
    """A history with these (successes, pulls) of each arm."""
    return [(arm, float(i < s)) for arm, (s, n) in enumerate(arms) for i in range(n)]


def assert_shares(observed, expected, num_draws=NUM_DRAWS):
    expected = np.asarray(expected)
    error = np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / num_draws)
    assert (np.abs(observed - expected) < 4.5 * error + 1e-9).all(), (observed, expected)


# --- Index agents: what they play follows from a formula.

HISTORIES = [[], [(0, 0.0)], [(0, 1.0)], pulls_of([(1, 3), (2, 3), (0, 0)]), pulls_of([(3, 5), (1, 1), (1, 2)])]


def hand_scores(name, history, n):
    pulls, successes = np.zeros(3, int), np.zeros(3, int)
    for arm, reward in history:
        pulls[arm] += 1
        successes[arm] += int(reward)
    mean = (successes + 1) / (pulls + 2)
    if name == "greedy":
        return mean
    if name == "ucb1":  # each arm has one success and one failure more
        return mean + 0.3 * np.sqrt(2 * np.log(pulls.sum() + 6) / (pulls + 2))
    if name == "gittins":
        return gittins_table(n, 0.9)[pair_index(pulls, successes)]
    return finite_horizon_gittins_table(n)[finite_horizon_place(len(history)) + pair_index(pulls, successes)]


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("greedy", {}),
        ("ucb1", {"scaling": 0.3}),
        ("gittins", {"discount": 0.9}),
        ("gittins_finite_horizon", {}),
    ],
)
def test_index_agents_play_the_highest_index(name, settings, history):
    agent = getattr(bandit, name)(BernoulliBandit(3), 12, **settings)
    scores = hand_scores(name, history, 12)
    assert replies(agent, history)[0] == scores.argmax()


def test_ucb1_weighs_exploration_by_its_scaling():
    history = pulls_of([(2, 3), (0, 0)])
    # means 3/5 and 1/2; log 7 = 1.9459: bonuses per unit of scaling 0.88226 and 1.39496; they cross at 0.19505
    for scaling, arm in ((0.19, 0), (0.20, 1)):
        assert replies(bandit.ucb1(BernoulliBandit(2), 5, scaling=scaling), history)[0] == arm


@pytest.mark.parametrize("name", ["gittins_whittle", "gittins_brezzi_lai"])
def test_approximate_indices_play_like_the_exact_one_where_arms_differ(name):
    env, history = BernoulliBandit(3), pulls_of([(6, 10), (1, 10), (4, 10)])
    agent = getattr(bandit, name)(env, 40, discount=0.95)
    assert replies(agent, history)[0] == replies(bandit.gittins(env, 40, discount=0.95), history)[0] == 0


def test_ties_go_to_the_lowest_index_or_to_any():
    history = pulls_of([(0, 1), (1, 2), (0, 0), (1, 2)])
    assert (replies(bandit.greedy(BernoulliBandit(4), 9), history, 50) == 1).all()
    anyone = bandit.greedy(BernoulliBandit(4), 9, tie_breaking="random")
    assert_shares(shares(anyone, history, 4), [0, 1 / 3, 1 / 3, 1 / 3])


def test_epsilon_is_the_share_of_random_pulls():
    history = pulls_of([(0, 2), (2, 2)])
    agent = bandit.eps_greedy(BernoulliBandit(2), 5, epsilon=0.3)
    assert_shares(shares(agent, history, 2), [0.15, 0.85])


def test_random_needs_no_history():
    assert_shares(shares(bandit.RANDOM.make(BernoulliBandit(3), 5), pulls_of([(0, 2), (2, 2)]), 3), [1 / 3] * 3)


# --- Agents that draw from the belief.


def test_beliefs_are_beta_distributed():
    counts = bandit.Counts(jnp.array([0, 1, 7, 90]), jnp.array([0, 1, 2, 60]), jnp.int32(98))
    draws = np.asarray(bandit._sample_beliefs(jax.random.key(3), counts, (20_000,)))
    for arm, (n, s) in enumerate([(0, 0), (1, 1), (7, 2), (90, 60)]):
        assert scipy.stats.kstest(draws[:, arm], scipy.stats.beta(1 + s, 1 + n - s).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(4), atol=0.04)


def test_thompson_plays_an_arm_as_often_as_it_is_best():
    history = pulls_of([(1, 3), (0, 0), (2, 3)])
    x = np.linspace(0, 1, 20_001)
    beliefs = [scipy.stats.beta(2, 3), scipy.stats.beta(1, 1), scipy.stats.beta(3, 2)]
    best = [np.trapezoid(b.pdf(x) * np.prod([o.cdf(x) for o in beliefs if o is not b], axis=0), x) for b in beliefs]
    assert sum(best) == pytest.approx(1, abs=1e-5)
    assert_shares(shares(bandit.thompson(BernoulliBandit(3), 9), history, 3), best)


def sampled_shares(choose, parameters):
    """As NumPy's own beta sampler has it."""
    rng = np.random.default_rng(0)
    return np.bincount([choose(rng, parameters) for _ in range(NUM_DRAWS)], minlength=3) / NUM_DRAWS


def test_optimistic_thompson_keeps_the_likeliest_sample():
    history = pulls_of([(1, 3), (0, 0), (2, 3)])
    parameters = [(2, 3), (1, 1), (3, 2)]

    def choose(rng, parameters):
        draws = np.stack([rng.beta(a, b, 4) for a, b in parameters], axis=1)
        powers = np.array(parameters) - 1
        log_density = (powers[:, 0] * np.log(draws) + powers[:, 1] * np.log1p(-draws)).sum(axis=1)
        return draws[log_density.argmax()].argmax()

    expected = sampled_shares(choose, parameters)
    agent = bandit.optimistic_thompson(BernoulliBandit(3), 9, num_samples=4)
    observed = shares(agent, history, 3)
    np.testing.assert_allclose(observed, expected, atol=4.5 * np.sqrt(2 * 0.25 / NUM_DRAWS))


def test_optimistic_thompson_of_one_sample_is_thompson():
    history = pulls_of([(1, 3), (0, 0), (2, 3)])
    one = shares(bandit.optimistic_thompson(BernoulliBandit(3), 9, num_samples=1), history, 3)
    np.testing.assert_allclose(
        one, shares(bandit.thompson(BernoulliBandit(3), 9), history, 3), atol=4.5 * np.sqrt(0.5 / NUM_DRAWS)
    )


def test_may_et_al_never_draw_below_the_mean():
    history = pulls_of([(1, 3), (0, 0), (2, 3)])

    def choose(rng, parameters):
        return np.argmax([max(rng.beta(a, b), a / (a + b)) for a, b in parameters])

    expected = sampled_shares(choose, [(2, 3), (1, 1), (3, 2)])
    observed = shares(bandit.may_optimistic_thompson(BernoulliBandit(3), 9), history, 3)
    np.testing.assert_allclose(observed, expected, atol=4.5 * np.sqrt(2 * 0.25 / NUM_DRAWS))


# --- All of them.


def exact_value(policy, num_arms, num_pulls):
    """Expected total reward of a deterministic (counts, time) -> arm policy, by forward sums over belief states."""
    states, total = {((0, 0),) * num_arms: 1.0}, 0.0
    for time in range(num_pulls):
        following = defaultdict(float)
        for arms, probability in states.items():
            pulls, successes = np.array(arms).T
            arm = policy(pulls, successes, time)
            n, s = arms[arm]
            mean = (s + 1) / (n + 2)
            total += probability * mean
            for success, chance in ((1, mean), (0, 1 - mean)):
                after = list(arms)
                after[arm] = (n + 1, s + success)
                following[tuple(sorted(after))] += probability * chance
        states = following
    return total


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(2, 20), (3, 20), (5, 14)])
def test_finite_horizon_gittins_is_nearly_optimal(num_arms, num_pulls):
    table = finite_horizon_gittins_table(num_pulls)

    def policy(pulls, successes, time):
        return int(np.argmax(table[finite_horizon_place(time) + pair_index(pulls, successes)]))

    value = exact_value(policy, num_arms, num_pulls)
    optimum = bayes_optimal_value(num_arms, num_pulls)
    assert optimum * 0.9995 <= value <= optimum * (1 + 1e-6)


@cache
def score(name):
    env, spec = BernoulliBandit(3), AGENTS[name]
    agent = spec.make(env, 6, **{**spec.fixed, **spec.grid[0]})
    return evaluate(agent, Trial(env, 6), 4000, evaluation_key(2)).total_reward


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_agent_lies_between_random_and_the_optimum(name):
    error = score(name).std() / np.sqrt(len(score(name)))
    assert score(name).mean() < bayes_optimal_value(3, 6) + 3 * error
    if name == "random":
        assert abs(score(name).mean() - 3) < 4 * error
    else:
        gain = score(name) - score("random")
        assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))


@pytest.mark.parametrize("name", sorted(set(AGENTS) - {"random"}))
def test_the_placeholders_of_the_first_step_teach_nothing(name):
    """Whatever the placeholders say, the second step knows of one pull only."""
    env, spec = BernoulliBandit(3), AGENTS[name]
    agent = spec.make(env, 6, **{**spec.fixed, **spec.grid[0]})
    key = jax.random.key(0)

    def second_state(placeholder):
        state, *_ = agent.step(key, agent.init(key), placeholder)
        return agent.step(key, state, seen(1, 1.0))[0]

    states = [second_state(seen(0, 0.0, 0.0)), second_state(seen(2, 1.0, 1.0))]
    jax.tree.map(np.testing.assert_array_equal, *states)
    counts = getattr(states[0], "counts", states[0])
    np.testing.assert_array_equal(counts.pulls, [0, 1, 0])
    np.testing.assert_array_equal(counts.successes, [0, 1, 0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("eps_greedy", {"epsilon": 1.5}),
        ("ucb1", {"scaling": -1.0}),
        ("optimistic_thompson", {"num_samples": 0}),
        ("gittins_whittle", {"discount": 1.0}),
        ("gittins_brezzi_lai", {"discount": 0.0}),
        ("gittins", {"discount": 1.0}),
        *((name, {"tie_breaking": "highest"}) for name in sorted(set(AGENTS) - {"random"})),
    ],
)
def test_bad_settings_are_named(name, settings):
    (field,) = settings
    with pytest.raises(ValueError, match=f"^{field} must be"):
        getattr(bandit, name.removesuffix("_random_ties"))(BernoulliBandit(2), 5, **settings)
