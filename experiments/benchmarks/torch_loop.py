"""The same iterations of RL^2 on Bernoulli bandits in plain PyTorch, as a comparison; a process of its own.

Equal to ours in what is computed: network sizes, batch, epochs, minibatches, Adam with elementwise clipping; or the
natural gradient by as many conjugate gradients, on the whole batch. All trials step together, one call of the GRU per
time step in acting and one per minibatch in learning. Where our products are rounded to bfloat16, so are these, by
`torch.autocast`.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from experiments.benchmarks.timing import answer_parent, interleave, take_turns


class Settings(NamedTuple):
    """Sizes of the comparison; names as in `rl2jax.TrainConfig`."""

    num_arms: int
    num_steps: int
    num_trials: int
    gru_units: int
    policy_epochs: int
    baseline_epochs: int
    num_minibatches: int
    learning_rate: float
    discount: float
    gae_lambda: float
    clip_range: float
    gradient_clip: float
    natural: bool
    max_kl: float
    cg_iters: int
    cg_damping: float
    backtrack_ratio: float
    rounded: bool
    threads: int


class Network(nn.Module):
    """GRU and linear head; inputs and outputs are time-major and float32, products rounded to bfloat16 or not."""

    def __init__(self, input_size: int, units: int, num_outputs: int, rounded: bool = False):
        super().__init__()
        self.rounded = rounded
        self.gru = nn.GRU(input_size, units)
        self.head = nn.Linear(units, num_outputs)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(outputs [num_steps, num_trials, num_outputs], last state [1, num_trials, units])."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.rounded):
            states, last = self.gru(inputs, state)
            return self.head(states).float(), last


class Batch(NamedTuple):
    """Time-major: inputs [num_steps, num_trials, num_arms + 3], the others [num_steps, num_trials]."""

    inputs: Tensor
    action: Tensor
    log_prob: Tensor
    reward: Tensor


def log_prob_of(logits: Tensor, action: Tensor) -> Tensor:
    """Log-probability of actions; shape of `action`."""
    return log_softmax(logits, -1).gather(-1, action[..., None])[..., 0]


@torch.no_grad()
def collect(policy: Network, s: Settings) -> Batch:
    """One batch of trials on fresh bandits, stepped together."""
    probs = torch.rand(s.num_trials, s.num_arms)
    inputs, state, steps = torch.zeros(s.num_trials, s.num_arms + 3), None, []
    for _ in range(s.num_steps):
        outputs, state = policy(inputs[None], state)
        logits = outputs[0]
        gumbel = -torch.log(-torch.log(torch.rand_like(logits).clamp_min(1e-20)))
        action = (logits + gumbel).argmax(-1)
        reward = torch.bernoulli(probs.gather(1, action[:, None])[:, 0])
        steps.append((inputs, action, log_prob_of(logits, action), reward))
        zero, one = torch.zeros(s.num_trials, 1), torch.ones(s.num_trials, 1)
        inputs = torch.cat([zero, one_hot(action, s.num_arms).float(), reward[:, None], one], 1)
    return Batch(*(torch.stack(column) for column in zip(*steps, strict=True)))


def discounted(x: Tensor, discount: float) -> Tensor:
    """Discounted sums from each step to the end; [num_steps, num_trials]."""
    sums, following = torch.empty_like(x), torch.zeros_like(x[0])
    for step in reversed(range(len(x))):
        following = sums[step] = x[step] + discount * following
    return sums


def epochs(count: int, optimiser, loss_fn, columns: tuple[Tensor, ...], network: Network, s: Settings) -> None:
    """Passes over shuffled minibatches of whole trials."""
    size = s.num_trials // s.num_minibatches
    for _ in range(count):
        for trials in torch.randperm(s.num_trials)[: size * s.num_minibatches].split(size):
            loss = loss_fn(*(column[:, trials] for column in columns))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(network.parameters(), s.gradient_clip)
            optimiser.step()


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    """All numbers of several tensors in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` iterations towards A x = b: (x, b - A x)."""
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    square = residual @ residual
    for _ in range(count):
        image = product(direction)
        alpha = square / (direction @ image)
        x, residual = x + alpha * direction, residual - alpha * image
        previous, square = square, residual @ residual
        direction = residual + square / previous * direction
    return x, residual


def natural_step(policy: Network, batch: Batch, advantage: Tensor, s: Settings) -> None:
    """One step of TRPO as it is usually written: Fisher products by differentiating the KL's gradient again."""
    parameters = list(policy.parameters())
    with torch.no_grad():
        old = log_softmax(policy(batch.inputs)[0], -1)

    def evaluate() -> tuple[Tensor, Tensor]:
        log_probs = log_softmax(policy(batch.inputs)[0], -1)
        ratio = torch.exp(log_probs.gather(-1, batch.action[..., None])[..., 0] - batch.log_prob)
        return (ratio * advantage).mean(), (old.exp() * (old - log_probs)).sum(-1).mean()

    surrogate, kl = evaluate()
    gradient = flat(torch.autograd.grad(surrogate, parameters, retain_graph=True))
    kl_gradient = flat(torch.autograd.grad(kl, parameters, create_graph=True))

    def product(v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(kl_gradient @ v, parameters, retain_graph=True)) + s.cg_damping * v

    direction, residual = conjugate_gradient(product, gradient, s.cg_iters)
    step = direction * torch.sqrt(2.0 * s.max_kl / (direction @ (gradient - residual)))
    before, start = float(surrogate.detach()), flat(tuple(parameters)).detach()
    for backtracks in range(11):
        nn.utils.vector_to_parameters(start + s.backtrack_ratio**backtracks * step, parameters)
        with torch.no_grad():
            surrogate, kl = evaluate()
        if surrogate > before and kl <= s.max_kl:
            return
    nn.utils.vector_to_parameters(start, parameters)


class Loop:
    """Both networks, their optimisers, and the iteration."""

    def __init__(self, settings: Settings):
        self.settings = settings
        input_size = settings.num_arms + 3
        self.policy = Network(input_size, settings.gru_units, settings.num_arms, settings.rounded)
        self.baseline = Network(input_size, settings.gru_units, 1, settings.rounded)
        self.policy_optimiser = torch.optim.Adam(self.policy.parameters(), settings.learning_rate)
        self.baseline_optimiser = torch.optim.Adam(self.baseline.parameters(), settings.learning_rate)

    def surrogate(self, inputs: Tensor, action: Tensor, old_log_prob: Tensor, advantage: Tensor) -> Tensor:
        """Negative clipped surrogate."""
        ratio = torch.exp(log_prob_of(self.policy(inputs)[0], action) - old_log_prob)
        limit = self.settings.clip_range
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - limit, 1 + limit) * advantage).mean()

    def squared_error(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The baseline's loss."""
        return (self.baseline(inputs)[0][..., 0] - target).square().mean()

    def iteration(self) -> float:
        """Collects, updates policy and baseline; returns the mean reward of a trial."""
        s = self.settings
        batch = collect(self.policy, s)
        returns = discounted(batch.reward, s.discount)
        mean, scale = returns.mean(), returns.std() + 1e-6
        with torch.no_grad():
            values = mean + scale * self.baseline(batch.inputs)[0][..., 0]
        following = torch.cat([values[1:], torch.zeros_like(values[:1])])
        advantage = discounted(batch.reward + s.discount * following - values, s.discount * s.gae_lambda)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        columns = (batch.inputs, batch.action, batch.log_prob, advantage)
        if s.natural:
            natural_step(self.policy, batch, advantage, s)
        else:
            epochs(s.policy_epochs, self.policy_optimiser, self.surrogate, columns, self.policy, s)
            with torch.no_grad():
                self.surrogate(*columns)  # as our metrics do, after the last epoch
        fit = (batch.inputs, (returns - mean) / scale)
        epochs(s.baseline_epochs, self.baseline_optimiser, self.squared_error, fit, self.baseline, s)
        return float(batch.reward.sum(0).mean())


def peak(rounded: bool, size: int = 1024, megabytes: int = 128) -> tuple[float, float]:
    """(FLOP/s in a matrix product, byte/s in a copy) of PyTorch, as `cost.measure_peak` measures JAX's."""
    a = torch.ones(size, size, dtype=torch.bfloat16 if rounded else torch.float32)
    x = torch.ones(megabytes * 250_000)

    def rate(call: Callable[[], Tensor], work: float, repeats: int) -> float:
        call()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return work * repeats / (time.perf_counter() - start)

    return rate(lambda: a @ a, 2.0 * size**3, 10), rate(lambda: -x, 2.0 * 4 * x.numel(), 4)


def main(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Samples of an iteration, by `timing.interleave`, or with "once" the seconds of a single one, the first.

    Args:
      settings: those of `Settings`, "once", and perhaps "in_turns": samples only when the parent says so, none here.
    """
    once, in_turns = settings.pop("once"), settings.pop("in_turns", False)
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    loop = Loop(Settings(**settings))
    if once:
        start = time.perf_counter()
        loop.iteration()
        return {"seconds": time.perf_counter() - start}
    probe, version = partial(peak, loop.settings.rounded), {"torch": torch.__version__}
    if in_turns:
        take_turns(loop.iteration, probe, version)
        return None
    return {"samples": interleave(loop.iteration, probe), **version}


if __name__ == "__main__":
    answer_parent(main)
