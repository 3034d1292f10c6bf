"""Exact Bayes-optimal value of a short Bernoulli bandit, by dynamic programming."""

from functools import cache

_MOST_PULLS = 12  # the table grows like exp(c n^(2/3)); beyond this it takes minutes


@cache
def bayes_optimal_value(num_arms: int, num_pulls: int) -> float:
    """The most total reward that any agent expects, arms independent and uniform on [0, 1].

    Arms are exchangeable, so what matters of a history is the multiset of the touched arms' (successes,
    failures). With m of them touched, pulling one that has s successes and f failures succeeds with the
    posterior mean (s + 1) / (s + f + 2); an untouched arm has s = f = 0.

    Args:
      num_arms: k; any number.
      num_pulls: n, at most 12.

    Raises:
      ValueError: for a horizon beyond that, or sizes below 1.
    """
    if num_arms < 1:
        raise ValueError(f"num_arms (k) must be an integer >= 1, got {num_arms}")
    if not 1 <= num_pulls <= _MOST_PULLS:
        raise ValueError(f"num_pulls (n) must be between 1 and {_MOST_PULLS} for the exact value, got {num_pulls}")
    memory: dict[tuple, float] = {}

    def value(touched: tuple[tuple[int, int], ...], pulls_left: int) -> float:
        if pulls_left == 0:
            return 0.0
        if touched in memory:  # the pulls made, hence those left, can be read off the multiset
            return memory[touched]
        best = 0.0
        for arm in {*touched, (0, 0)} if len(touched) < num_arms else set(touched):
            others = list(touched)
            if arm in others:
                others.remove(arm)
            successes, failures = arm
            mean = (successes + 1) / (successes + failures + 2)
            after_success = tuple(sorted([*others, (successes + 1, failures)]))
            after_failure = tuple(sorted([*others, (successes, failures + 1)]))
            total = mean * (1.0 + value(after_success, pulls_left - 1))
            total += (1.0 - mean) * value(after_failure, pulls_left - 1)
            best = max(best, total)
        memory[touched] = best
        return best

    return value((), num_pulls)
