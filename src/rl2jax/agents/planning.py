"""Finite-horizon planning in tabular MDPs: value iteration, and its extended form over sets of transitions."""

import chex
import jax
import jax.numpy as jnp

# Values closer than this, relative to their size, count as tied: sums of equal terms can differ in the last bits.
_TIE_TOLERANCE = 1e-5
_PRECISION = "highest"  # recent GPUs would round factors to TF32, to less than what ties are told by


def value_iteration(reward: chex.Array, transition: chex.Array) -> chex.Array:
    """Optimal action values of a known MDP, by backward induction.

    Q_t(s, a) = r_t(s, a) + sum_s' P(s' | s, a) max_a' Q_{t+1}(s', a'), with Q_T = 0
    (Puterman, "Markov Decision Processes", 1994, section 4.5).

    Args:
      reward: mean rewards by time step; float32 [T, S, A]; see `stationary`.
      transition: probabilities P(s' | s, a); float32 [S, A, S].

    Returns:
      Q; float32 [T, S, A].
    """
    _check_shapes(reward, transition)

    def backup(value, reward_t):
        q = reward_t + jnp.einsum("san,n->sa", transition, value, precision=_PRECISION)
        return q.max(axis=-1), q

    _, q = jax.lax.scan(backup, jnp.zeros(reward.shape[1], reward.dtype), reward, reverse=True)
    return q


def extended_value_iteration(
    reward: chex.Array, transition: chex.Array, slack: chex.Array, *, accumulate_slack: bool = False
) -> chex.Array:
    """Action values of the most favourable MDP whose transition rows lie near the given ones.

    At each backup every row moves slack/2 of its mass (less where it cannot) from the states of least value to the
    state of greatest value, the maximum over rows within L1 distance `slack` (Jaksch, Ortner and Auer,
    "Near-optimal regret bounds for reinforcement learning", 2010, figure 2), here over a finite horizon.

    Args:
      reward: optimistic mean rewards by time step; float32 [T, S, A].
      transition: centres of the sets; float32 [S, A, S].
      slack: their radii in L1 distance; float32 [S, A].
      accumulate_slack: each backup starts from the rows that the backup of the following time step left behind
        rather than from `transition`, unless their mass went to one state entirely. Not an optimum over any set of
        this radius; the published UCRL2 numbers need it.

    Returns:
      Q; float32 [T, S, A].
    """
    _check_shapes(reward, transition)
    chex.assert_shape(slack, transition.shape[:2])
    states = jnp.arange(transition.shape[0])

    def backup(carry, reward_t):
        value, rows = carry
        # first[j, i]: state j is no better than i; of states of equal value the later counts as the better
        later = value[:, None] < value[None, :]
        tied = (value[:, None] == value[None, :]) & (states[:, None] <= states[None, :])
        first = (later | tied).astype(rows.dtype)
        best = jnp.argmax(first.sum(axis=0))
        moved = rows.at[:, :, best].add(0.5 * slack)
        # The surplus of 1 is taken from the worst states: what is left up to i is max(0, mass up to i - surplus).
        surplus = moved.sum(axis=-1, keepdims=True) - 1.0
        up_to = jnp.einsum("saj,ji->sai", moved, first, precision=_PRECISION)
        optimistic = jnp.maximum(up_to - surplus, 0.0) - jnp.maximum(up_to - moved - surplus, 0.0)
        full = moved[:, :, best, None] > 1.0
        optimistic = jnp.where(full, (states == best).astype(rows.dtype), optimistic)
        q = reward_t + jnp.einsum("san,n->sa", optimistic, value, precision=_PRECISION)
        return (q.max(axis=-1), jnp.where(full, rows, optimistic) if accumulate_slack else rows), q

    start = jnp.zeros(reward.shape[1], reward.dtype), transition
    _, q = jax.lax.scan(backup, start, reward, reverse=True)
    return q


def stationary(reward: chex.Array, horizon: int) -> chex.Array:
    """The same rewards at each of `horizon` time steps; float32 [...] -> [horizon, ...]."""
    return jnp.broadcast_to(reward, (horizon, *reward.shape))


def greedy_policy(key: chex.PRNGKey, q: chex.Array) -> chex.Array:
    """A maximising action of each row, uniformly among those tied to rounding; float32 [..., A] -> int32 [...]."""
    best = q.max(axis=-1, keepdims=True)
    tied = q >= best - _TIE_TOLERANCE * jnp.maximum(jnp.abs(best), 1.0)
    priority = jnp.where(tied, jax.random.uniform(key, q.shape), -1.0)
    return jnp.argmax(priority, axis=-1).astype(jnp.int32)


def _check_shapes(reward: chex.Array, transition: chex.Array) -> None:
    chex.assert_rank([reward, transition], 3)
    chex.assert_shape(transition, (*reward.shape[1:], reward.shape[1]))
