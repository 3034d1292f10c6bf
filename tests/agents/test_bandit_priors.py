"""Bandits whose arms are not uniform: what is drawn, what it is called, and who refuses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl2jax.agents.bandit import BANDIT_AGENTS
from rl2jax.envs import BernoulliBandit
from rl2jax.envs.names import parse_task
from rl2jax.limits import bayes_optimal_agent
from rl2jax.results.compare import known_agents
from rl2jax.results.limit_rows import limit_row

pytestmark = pytest.mark.usefixtures("strict_ranks")

# Seeds are fixed: 4 standard errors or p = 0.001 say "as defined".
P_VALUE, COUNT = 1e-3, 4000


def drawn(env, seed=0):
    """Success probabilities of 4000 tasks; [4000, num_arms]."""
    keys = jax.random.split(jax.random.key(seed), COUNT)
    return np.asarray(jax.jit(jax.vmap(env.sample_params))(keys).probs)


# --- What is drawn.


@pytest.mark.parametrize("env", [BernoulliBandit(5), BernoulliBandit(5, 1, 1, 100), BernoulliBandit(5, num_good=5)])
def test_uniform_arms_are_those_of_before(env):
    """A key's tasks, bit for bit: trained agents and rows on disk have met these."""
    assert env.is_uniform
    for seed in range(3):
        key = jax.random.key(seed)
        np.testing.assert_array_equal(env.sample_params(key).probs, jax.random.uniform(key, (5,)))


@pytest.mark.parametrize(("alpha", "beta"), [(2, 2), (0.5, 3.0)])
def test_beta_arms(alpha, beta):
    probs = drawn(BernoulliBandit(2, alpha, beta))
    assert scipy.stats.kstest(probs.ravel(), "beta", (alpha, beta)).pvalue > P_VALUE
    mean, variance = scipy.stats.beta.stats(alpha, beta)
    assert abs(probs.mean() - mean) < 4 * np.sqrt(variance / probs.size)
    assert abs(np.corrcoef(probs.T)[0, 1]) < 4 / np.sqrt(COUNT)


def test_sparse_arms_are_good_each_on_its_own():
    """The number of good arms is binomial, and good ones are uniform."""
    probs = drawn(BernoulliBandit(4, good_percent=20))
    good = probs > 0
    seen = np.bincount(good.sum(axis=1), minlength=5)
    assert scipy.stats.chisquare(seen, COUNT * scipy.stats.binom.pmf(np.arange(5), 4, 0.2)).pvalue > P_VALUE
    assert np.abs(good.mean(axis=0) - 0.2).max() < 4 * np.sqrt(0.2 * 0.8 / COUNT)
    assert scipy.stats.kstest(probs[good], "uniform").pvalue > P_VALUE


def test_a_fixed_number_of_good_arms_at_any_places():
    probs = drawn(BernoulliBandit(5, alpha=2, beta=3, num_good=3))
    good = probs > 0
    assert (good.sum(axis=1) == 3).all()
    assert np.abs(good.mean(axis=0) - 0.6).max() < 4 * np.sqrt(0.6 * 0.4 / COUNT)
    assert scipy.stats.kstest(probs[good], "beta", (2, 3)).pvalue > P_VALUE


def test_bad_arms_never_pay():
    env = BernoulliBandit(3, num_good=1)
    params = jax.jit(env.sample_params)(jax.random.key(0))
    _, state = env.reset_env(jax.random.key(0), params)

    @jax.jit
    @jax.vmap
    def pull(key):
        return jax.vmap(lambda arm: env.step_env(key, state, arm, params)[2])(jnp.arange(3))

    paid = np.asarray(pull(jax.random.split(jax.random.key(1), 500))).sum(axis=0)
    np.testing.assert_array_equal(paid > 0, np.asarray(params.probs) > 0)


@pytest.mark.parametrize(
    "settings", [{"alpha": 2}, {"beta": 0.5}, {"good_percent": 99}, {"num_good": 4}, {"alpha": 2, "beta": 2}]
)
def test_other_priors_are_other_distributions(settings):
    env = BernoulliBandit(5, **settings)
    assert not env.is_uniform
    assert env != BernoulliBandit(5)
    assert (env, hash(env)) == (BernoulliBandit(5, **settings), hash(BernoulliBandit(5, **settings)))


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"alpha": 0}, "alpha", "0"),
        ({"alpha": float("nan")}, "alpha", "nan"),
        ({"beta": -1}, "beta", "-1"),
        ({"beta": float("inf")}, "beta", "inf"),
        ({"good_percent": 0}, r"good_percent \(good\)", "0"),
        ({"good_percent": 101}, r"good_percent \(good\)", "101"),
        ({"num_good": 0}, r"num_good \(j\)", "0"),
        ({"num_good": 6}, r"num_good \(j\)", "6"),
        ({"num_good": 3, "good_percent": 50}, r"good_percent \(good\)", "50"),
    ],
)
def test_bad_priors_name_field_and_value(settings, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be .* got {value}$"):
        BernoulliBandit(5, **settings)


# --- Names.


@pytest.mark.parametrize(
    ("text", "name", "env"),
    [
        ("bandit:alpha=1,k=5,beta=1,good=100", "bandit:k=5,n=10", BernoulliBandit(5)),
        ("bandit:n=7,beta=2,alpha=2,k=3", "bandit:k=3,alpha=2,beta=2,n=7", BernoulliBandit(3, 2, 2)),
        ("bandit:alpha=2", "bandit:k=5,alpha=2,n=10", BernoulliBandit(5, 2)),
        ("bandit:good=20,k=50,n=9", "bandit:k=50,good=20,n=9", BernoulliBandit(50, good_percent=20)),
        ("bandit:j=3", "bandit:k=5,j=3,n=10", BernoulliBandit(5, num_good=3)),
    ],
)
def test_names_of_priors(text, name, env):
    task = parse_task(text)
    assert (task.name, task.kind.name, task.env) == (name, "bandit", env)
    assert parse_task(task.name) == task


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bandit:alpha=0.5", "alpha must be an integer, got '0.5'"),
        ("bandit:alpha=0", "alpha must be > 0 and finite, got 0"),
        ("bandit:k=5,j=6", r"num_good \(j\) must be an integer from 1 to num_arms \(k\), 5, got 6"),
        ("bandit:j=2,good=20", r"good_percent \(good\) must be 100 where .* got 20"),
        ("mdp:alpha=2", "unknown setting 'alpha'; allowed are s=, a=, t=, n="),
    ],
)
def test_bad_names_of_priors_say_why(text, said):
    with pytest.raises(ValueError, match=said):
        parse_task(text)


# --- Who refuses: limits and the optimal agent are derived for uniform arms.

OTHER = parse_task("bandit:k=2,alpha=2,beta=2,n=3")


def test_the_optimal_agent_is_not_offered_for_other_priors():
    assert "bayes_optimal" in known_agents(parse_task("bandit:k=2,n=3"))
    assert known_agents(OTHER).keys() == BANDIT_AGENTS.keys()
    with pytest.raises(ValueError, match=r"env must be a bandit of uniform arms.*alpha=2"):
        bayes_optimal_agent(OTHER.env, 3)


@pytest.mark.parametrize("prior", ["alpha=2,beta=2", "good=20", "j=1"])
def test_there_is_no_limit_for_other_priors(prior):
    with pytest.raises(ValueError, match=rf"limits are known for .*uniform.* got bandit:k=2,{prior},n=3"):
        limit_row(parse_task(f"bandit:k=2,{prior},n=3"), 10, 0)
