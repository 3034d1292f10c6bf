"""Planning: against enumerated policies, linear programs and plain loops, in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from rl2jax.agents.planning import extended_value_iteration, greedy_policy, stationary, value_iteration

pytestmark = pytest.mark.usefixtures("strict_ranks")

P_VALUE = 1e-3


def random_mdps(seed, count, num_states, num_actions, horizon):
    """Rewards [count, T, S, A] that change with time, and transition rows [count, S, A, S], some entries 0."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(count, horizon, num_states, num_actions))
    weights = rng.exponential(size=(count, num_states, num_actions, num_states))
    weights *= rng.random(weights.shape) < 0.8
    weights[..., 0] += 1e-3
    transition = weights / weights.sum(-1, keepdims=True)
    return reward.astype(np.float32), transition.astype(np.float32)


# --- Value iteration.


def best_values_by_enumeration(reward, transition):
    """Greatest value of each state, over every rule (time, state) -> action."""
    horizon, num_states, num_actions = reward.shape
    best = np.full(num_states, -np.inf)
    for actions in itertools.product(range(num_actions), repeat=horizon * num_states):
        value = np.zeros(num_states)
        for t, rule in reversed(list(enumerate(np.reshape(actions, (horizon, num_states))))):
            value = np.array([reward[t, s, a] + transition[s, a] @ value for s, a in enumerate(rule)])
        best = np.maximum(best, value)
    return best


def test_value_iteration_finds_the_best_of_all_policies():
    reward, transition = random_mdps(0, 5, 2, 2, 3)
    q = np.asarray(jax.jit(jax.vmap(value_iteration))(reward, transition))
    for i in range(5):
        np.testing.assert_allclose(q[i, 0].max(-1), best_values_by_enumeration(reward[i], transition[i]), rtol=1e-5)
        # and each action's value is its reward and the best of all policies for the time that remains
        later = best_values_by_enumeration(reward[i, 1:], transition[i])
        np.testing.assert_allclose(q[i, 0], reward[i, 0] + transition[i] @ later, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(q[i, -1], reward[i, -1])


def test_stationary_repeats_rewards_over_time():
    repeated = stationary(jnp.arange(6.0).reshape(2, 3), 4)
    assert repeated.shape == (4, 2, 3)
    np.testing.assert_array_equal(repeated, np.tile(np.arange(6.0).reshape(2, 3), (4, 1, 1)))


@pytest.mark.parametrize("planner", [value_iteration, lambda r, p: extended_value_iteration(r, p, jnp.zeros((2, 3)))])
def test_shapes_that_do_not_fit_are_refused(planner):
    with pytest.raises(AssertionError):
        planner(jnp.zeros((4, 2, 3)), jnp.zeros((2, 3, 3)))  # three next states of two
    with pytest.raises(AssertionError):
        planner(jnp.zeros((2, 3)), jnp.zeros((2, 3, 2)))  # no time axis


# --- Extended value iteration.


def most_favourable_mean(row, slack, value):
    """The greatest mean of `value` over rows within L1 distance `slack`: a linear program in gains and losses."""
    num_states = len(row)
    solved = scipy.optimize.linprog(
        -np.concatenate([value, -value]),
        A_ub=np.ones((1, 2 * num_states)),
        b_ub=[slack],
        A_eq=np.concatenate([np.ones(num_states), -np.ones(num_states)])[None],
        b_eq=[0.0],
        bounds=[(0.0, None)] * num_states + [(0.0, p) for p in row],
    )
    assert solved.success
    return row @ value - solved.fun


def test_extended_value_iteration_solves_the_linear_program_of_every_row():
    reward, transition = random_mdps(1, 4, 3, 2, 3)
    slack = np.random.default_rng(2).uniform(0.0, 2.5, (4, 3, 2)).astype(np.float32)
    slack[0, 0] = 0.0
    q = np.asarray(jax.jit(jax.vmap(extended_value_iteration))(reward, transition, slack))
    for i, t in itertools.product(range(4), range(3)):
        value = q[i, t + 1].max(-1).astype(float) if t < 2 else np.zeros(3)
        for s, a in itertools.product(range(3), range(2)):
            mean = most_favourable_mean(transition[i, s, a].astype(float), slack[i, s, a], value)
            np.testing.assert_allclose(q[i, t, s, a], reward[i, t, s, a] + mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("accumulate_slack", [False, True])
def test_without_slack_extended_value_iteration_is_value_iteration(accumulate_slack):
    (reward,), (transition,) = random_mdps(3, 1, 4, 3, 5)
    q = extended_value_iteration(reward, transition, jnp.zeros((4, 3)), accumulate_slack=accumulate_slack)
    np.testing.assert_allclose(q, value_iteration(reward, transition), rtol=1e-5, atol=1e-5)


def plan_editing_rows(reward, transition, slack):
    """Backups that leave each row as they found it best, for the backups of earlier time steps to start from."""
    rows = transition.astype(float)
    q = np.zeros(reward.shape)
    value = np.zeros(reward.shape[1])
    replaced = 0
    for t in reversed(range(len(reward))):
        worst_first = np.argsort(value, kind="stable")
        for s, a in np.ndindex(*slack.shape):
            row = rows[s, a]  # a view
            if row[worst_first[-1]] + slack[s, a] / 2 > 1.0:
                row = np.eye(len(value))[worst_first[-1]]
                replaced += 1
            else:
                row[worst_first[-1]] += slack[s, a] / 2
                surplus = row.sum() - 1.0
                for state in worst_first:
                    taken = min(row[state], surplus)
                    row[state] -= taken
                    surplus -= taken
            q[t, s, a] = reward[t, s, a] + row @ value
        value = q[t].max(-1)
    return q, replaced / q.size


def test_slack_accumulates_as_in_a_loop_that_edits_the_rows_in_place():
    reward, transition = random_mdps(4, 20, 4, 2, 6)
    slack = np.random.default_rng(5).uniform(0.0, 1.5, (20, 4, 2)).astype(np.float32)

    def accumulating(*mdp):
        return extended_value_iteration(*mdp, accumulate_slack=True)

    q = np.asarray(jax.jit(jax.vmap(accumulating))(reward, transition, slack))
    once = np.asarray(jax.jit(jax.vmap(extended_value_iteration))(reward, transition, slack))
    wanted, replaced = zip(*map(plan_editing_rows, reward, transition, slack), strict=True)
    np.testing.assert_allclose(q, wanted, rtol=1e-4, atol=1e-4)
    assert 0.1 < np.mean(replaced) < 0.9  # both branches of the loop were taken
    assert np.abs(q - once)[:, 0].max() > 0.1  # and what accumulates matters


# --- Greedy policies.


def test_greedy_policy_breaks_ties_uniformly_and_only_ties():
    """Ties to rounding count as ties, at either sign and at any size; anything less does not."""
    q = np.array([[1.0, 1.0, 0.9, 1.0], [-500.0, -500.0001, -500.0, -500.1], [0.0, 1e-3, 0.0, 1e-3]], np.float32)
    ties = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 0, 1]])
    keys = jax.random.split(jax.random.key(0), 6000)
    actions = np.asarray(jax.jit(jax.vmap(greedy_policy, in_axes=(0, None)))(keys, q))
    assert actions.shape == (6000, 3)
    assert actions.dtype == np.int32
    for row in range(3):
        counts = np.bincount(actions[:, row], minlength=4)
        assert counts[ties[row] == 0].sum() == 0
        assert scipy.stats.chisquare(counts[ties[row] == 1]).pvalue > P_VALUE
    # rows break their ties independently
    table = scipy.stats.contingency.crosstab(actions[:, 0], actions[:, 1]).count
    assert scipy.stats.chi2_contingency(table).pvalue > P_VALUE
