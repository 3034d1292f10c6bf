"""One bandit at a time, one step at a time: a gymnasium-style environment and a GRU in NumPy, acting only."""

import statistics
import time
from typing import Any

import numpy as np

from experiments.benchmarks.timing import answer_parent


class Bandit:
    """`num_arms` Bernoulli arms with gymnasium's interface; `num_pulls` pulls, then a new bandit at `reset`."""

    def __init__(self, num_arms: int, num_pulls: int, seed: int = 0):
        self.num_arms, self.num_pulls = num_arms, num_pulls
        self.random = np.random.default_rng(seed)
        self.probs, self.pulls = np.zeros(num_arms), 0

    def reset(self) -> tuple[np.ndarray, dict]:
        """(observation, info)."""
        self.probs, self.pulls = self.random.random(self.num_arms), 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """(observation, reward, terminated, truncated, info)."""
        self.pulls += 1
        reward = float(self.random.random() < self.probs[action])
        return np.zeros(1, np.float32), reward, self.pulls == self.num_pulls, False, {}


class Policy:
    """A GRU with random weights and a softmax over arms."""

    def __init__(self, num_arms: int, units: int, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.num_arms, self.units = num_arms, units

        def weights(*shape: int) -> np.ndarray:
            return self.random.normal(0, units**-0.5, shape).astype(np.float32)

        self.input, self.hidden = weights(num_arms + 3, 3 * units), weights(units, 3 * units)
        self.head = weights(units, num_arms)

    def step(self, state: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, int]:
        """(new state [units], action)."""
        u = self.units
        from_input, from_state = x @ self.input, state @ self.hidden
        gates = 1.0 / (1.0 + np.exp(-(from_input[: 2 * u] + from_state[: 2 * u])))
        candidate = np.tanh(from_input[2 * u :] + gates[:u] * from_state[2 * u :])
        state = state + gates[u:] * (candidate - state)
        return state, int(np.argmax(state @ self.head + self.random.gumbel(size=self.num_arms)))


def play(env: Bandit, policy: Policy) -> int:
    """One trial; returns its steps."""
    obs, _ = env.reset()
    state = np.zeros(policy.units, np.float32)
    x = np.zeros(policy.num_arms + 3, np.float32)
    steps, over = 0, False
    while not over:
        state, action = policy.step(state, x)
        obs, reward, terminated, truncated, _ = env.step(action)
        x = np.concatenate(
            [obs, np.eye(policy.num_arms, dtype=np.float32)[action], np.array([reward, 1.0], np.float32)]
        )
        steps, over = steps + 1, terminated or truncated
    return steps


def main(settings: dict[str, Any]) -> dict[str, float]:
    """Steps per second: the median of five stretches of a second."""
    env, policy = Bandit(settings["num_arms"], settings["num_pulls"]), Policy(settings["num_arms"], settings["units"])
    rates: list[float] = []
    for _ in range(5):
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < settings.get("seconds", 1.0):
            steps += play(env, policy)
        rates.append(steps / (time.perf_counter() - start))
    return {"steps_per_second": statistics.median(rates)}


if __name__ == "__main__":
    answer_parent(main)
