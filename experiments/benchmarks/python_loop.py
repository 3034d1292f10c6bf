"""One bandit at a time, one step at a time: a gymnasium-style environment, a GRU in NumPy or PyTorch; acting only."""

import statistics
import time
from typing import Any, Protocol

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


class Policy(Protocol):
    """Who acts, from a memory that is None at a trial's start."""

    def act(self, state: Any, previous: tuple[int, float] | None) -> tuple[Any, int]:
        """(new state, action) after this action and reward; None at a trial's first step."""


class NumPyPolicy:
    """A GRU with random weights and a softmax over arms, written out in products of one vector."""

    def __init__(self, num_arms: int, units: int, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.num_arms, self.units = num_arms, units

        def weights(*shape: int) -> np.ndarray:
            return self.random.normal(0, units**-0.5, shape).astype(np.float32)

        self.input, self.hidden = weights(num_arms + 3, 3 * units), weights(units, 3 * units)
        self.head = weights(units, num_arms)

    def act(self, state: np.ndarray | None, previous: tuple[int, float] | None) -> tuple[np.ndarray, int]:
        """(new state [units], action)."""
        u = self.units
        state = np.zeros(u, np.float32) if state is None else state
        x = np.zeros(self.num_arms + 3, np.float32)
        if previous is not None:
            x[1 + previous[0]], x[-2], x[-1] = 1.0, previous[1], 1.0
        from_input, from_state = x @ self.input, state @ self.hidden
        gates = 1.0 / (1.0 + np.exp(-(from_input[: 2 * u] + from_state[: 2 * u])))
        candidate = np.tanh(from_input[2 * u :] + gates[:u] * from_state[2 * u :])
        state = state + gates[u:] * (candidate - state)
        return state, int(np.argmax(state @ self.head + self.random.gumbel(size=self.num_arms)))


class TorchPolicy:
    """The network of `torch_loop`, asked for one step of one trial, as a training loop in PyTorch would."""

    def __init__(self, num_arms: int, units: int):
        import torch  # not where the policy is NumPy's

        from experiments.benchmarks.torch_loop import Network

        torch.set_num_threads(1)  # nothing to share in a product with one vector
        torch.manual_seed(0)
        self.torch, self.num_arms = torch, num_arms
        self.network = Network(num_arms + 3, units, num_arms)

    def act(self, state: Any, previous: tuple[int, float] | None) -> tuple[Any, int]:
        """(new state [1, 1, units], action)."""
        torch = self.torch
        with torch.no_grad():
            x = torch.zeros(1, 1, self.num_arms + 3)
            if previous is not None:
                x[0, 0, 1 + previous[0]], x[0, 0, -2], x[0, 0, -1] = 1.0, previous[1], 1.0
            logits, state = self.network(x, state)
            return state, int(torch.distributions.Categorical(logits=logits[0, 0]).sample())


def play(env: Bandit, policy: Policy) -> int:
    """One trial; returns its steps."""
    env.reset()
    state, previous = None, None
    steps, over = 0, False
    while not over:
        state, action = policy.act(state, previous)
        _, reward, terminated, truncated, _ = env.step(action)
        previous = action, reward
        steps, over = steps + 1, terminated or truncated
    return steps


POLICIES: dict[str, Any] = {"NumPy": NumPyPolicy, "PyTorch": TorchPolicy}


def main(settings: dict[str, Any]) -> dict[str, float]:
    """Steps per second: the median of five stretches of a second.

    Args:
      settings: "num_arms", "num_pulls", "units"; "network", one of `POLICIES`; perhaps "seconds" of a stretch.
    """
    env = Bandit(settings["num_arms"], settings["num_pulls"])
    policy = POLICIES[settings["network"]](settings["num_arms"], settings["units"])
    play(env, policy)
    rates: list[float] = []
    for _ in range(5):
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < settings.get("seconds", 1.0):
            steps += play(env, policy)
        rates.append(steps / (time.perf_counter() - start))
    return {"steps_per_second": statistics.median(rates)}


if __name__ == "__main__":
    answer_parent(main)
