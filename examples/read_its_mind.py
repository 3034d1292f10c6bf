"""Beside Gittins, and inside: what a trained agent does on 5 arms, and what its hidden state knows about them.

    python examples/read_its_mind.py                    # one GRU: learned from reward, and to predict the arms
    python examples/read_its_mind.py --recipe best      # a memory for each arm: imitated Gittins, never told to count

1. The agent and the Gittins index play the same bandits. How often would Gittins have done in the agent's place what
   the agent did?
2. All that matters about an arm is its posterior mean and how often it was pulled. Both are read out of the agent's
   hidden state by ridge regression, fitted on some trials and scored on others. Two controls see the same trials: a
   network of the same shape that was never trained, and the trained one asked about another trial's arms.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.flatten_util
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg

import rl2jax
from rl2jax.agents import reference_agents
from rl2jax.envs.names import parse_task
from rl2jax.runs.shipped import describe
from rl2jax.training.families import make_networks
from rl2jax.trials.evaluate import evaluation_key, play_tasks
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import tuned_or_tune

PENALTIES = 10.0 ** np.arange(-7, 1)  # of the ridge; chosen on trials of their own
RANGES = ((1, 5), (6, 10), (11, 20), (21, 40), (41, 60), (61, 80), (81, 99))  # pulls made so far, both included


class Replay(NamedTuple):
    """An agent that is shown trials as they went: numpy leaves [num_steps, num_tasks, ...].

    Attributes:
      state: its memory once it has seen step t, before it acts; all of it as one vector.
      action: what it would do.
    """

    state: chex.Array
    action: chex.Array


def replay(agent, trial_obs):
    """Shows an agent what was seen in trials that another agent may have played."""

    def one_trial(trial_obs):
        def step(state, seen):
            state, action, _ = agent.step(jax.random.key(0), state, seen)
            return state, Replay(jax.flatten_util.ravel_pytree(state)[0], action)

        return jax.lax.scan(step, agent.init(jax.random.key(0)), trial_obs)[1]

    return jax.device_get(jax.jit(jax.vmap(one_trial, in_axes=1, out_axes=1))(trial_obs))


def beliefs(trajectory, num_arms):
    """What the pulls so far say of each arm, before each step; float64 [num_steps, num_tasks, num_arms], twice.

    Returns:
      (posterior mean under the uniform prior, number of pulls).
    """
    pulled = np.eye(num_arms)[trajectory.action]
    successes = np.cumsum(pulled * trajectory.reward[..., None], axis=0) - pulled * trajectory.reward[..., None]
    pulls = np.cumsum(pulled, axis=0) - pulled
    return (1 + successes) / (2 + pulls), pulls


def with_one(states):
    """States as rows with a constant beside them: float64 [num_steps * num_tasks, units + 1]."""
    rows = states.reshape(-1, states.shape[-1]).astype(np.float64)
    return np.hstack([rows, np.ones((len(rows), 1))])


def ridge(states, targets, penalties):
    """Weights W that minimise mean |x W - y|^2 + penalty |W|^2, for each penalty: (X'X/n + penalty I) W = X'y/n.

    Args:
      states: float [num_steps, num_tasks, units]; divided by their root mean square, so that penalties mean the same
        for all networks.
      targets: float [num_steps, num_tasks, num_targets].
      penalties: > 0; the constant's weight has none.

    Returns:
      float64 [units + 1, num_targets] for each penalty, the constant last.
    """
    x, y = with_one(states), targets.reshape(-1, targets.shape[-1])
    scale = np.append(np.full(x.shape[1] - 1, np.sqrt(np.mean(x[:, :-1] ** 2))), 1.0)
    gram, moments = x.T @ x / len(x) / np.outer(scale, scale), x.T @ y / len(x) / scale[:, None]
    shrunk = np.append(np.ones(x.shape[1] - 1), 0.0)
    solutions = (scipy.linalg.solve(gram + np.diag(p * shrunk), moments, assume_a="pos") for p in penalties)
    return [solution / scale[:, None] for solution in solutions]


def decode(states, weights):
    """Read-outs at every step; float64 [num_steps, num_tasks, num_targets]."""
    return (with_one(states) @ weights).reshape(*states.shape[:-1], -1)


def r_squared(decoded, targets):
    """Share of the targets' variance over steps, trials and arms that the read-outs explain; 1 - residual/variance."""
    return 1 - np.sum((targets - decoded) ** 2) / np.sum((targets - targets.mean()) ** 2)


def fit(states, targets, split):
    """Ridge regression on the first trials, the penalty chosen on the next, its read-outs on the rest: held out.

    Args:
      states: [num_steps, num_tasks, units].
      targets: [num_steps, num_tasks, num_targets].
      split: (end of the trials to fit, end of those to choose on).
    """
    one, two = split
    candidates = ridge(states[:, :one], targets[:, :one], PENALTIES)
    scores = [r_squared(decode(states[:, one:two], w), targets[:, one:two]) for w in candidates]
    return decode(states[:, two:], candidates[int(np.argmax(scores))])


def by_range(function, num_steps):
    """function(steps) for each of `RANGES` that a trial reaches, and for all steps; step t follows t pulls."""
    reached = [slice(low, high + 1) for low, high in RANGES if low < num_steps]
    return [float(function(steps)) for steps in (*reached, slice(None))]


def print_table(title, rows, num_steps):
    """A row of numbers for each name, a column for each range and one for all steps."""
    columns = [f"{low}-{min(high, num_steps - 1)}" for low, high in RANGES if low < num_steps] + ["all"]
    print(f"\n{title:40}" + "".join(f"{column:>8}" for column in columns))
    for name, numbers in rows.items():
        print(f"{name:40}" + "".join(f"{number:8.3f}" for number in numbers))


def compare(played):
    """Prints the mean total rewards of trials of two agents on the same tasks, and their paired difference."""
    totals = [trials.trajectory.reward.sum(axis=0, dtype=np.float64) for trials in played.values()]
    gain = totals[0] - totals[1]
    error = gain.std(ddof=1) / len(gain) ** 0.5
    means = ", ".join(f"{who} {total.mean():.2f}" for who, total in zip(played, totals, strict=True))
    print(f"mean total reward over the same {len(gain)} bandits: {means}")
    print(f"difference {gain.mean():.2f} +- {error:.2f} (standard error, paired)")


def read(trained, control, targets, split):
    """Held-out read-outs and what they should be, by the trained network and by the controls; {name: (read, true)}."""
    held_out = slice(split[1], None)
    elsewhere = np.roll(targets, 1, axis=1)  # the arms of another trial, at the same time
    return {
        "trained": (fit(trained.state, targets, split), targets[:, held_out]),
        "never trained": (fit(control.state, targets, split), targets[:, held_out]),
        "another trial's": (fit(trained.state, elsewhere, split), elsewhere[:, held_out]),
    }


def draw(decoded, means, scores, title, path):
    """Posterior means decoded against true, and R squared over the pulls, on a scale that spreads what is near 1."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", width_ratios=(1, 1.4))
    box = {"bins": 60, "range": ((0, 1), (-0.1, 1.1))}
    left.hist2d(means[1:].ravel(), decoded[1:].ravel(), cmap="Blues", norm="log", **box)
    left.plot([0, 1], [0, 1], color="0.3", linewidth=1, linestyle="--")
    left.set(xlabel="posterior mean of an arm", ylabel="read out of the hidden state", title="held out (log scale)")
    styles = {"trained": "-", "never trained": "--", "another trial's": ":"}
    for column, (target, curves) in enumerate(scores.items()):
        for name, (*numbers, _) in curves.items():
            label = f"{target}, {name}"
            right.plot(1 - np.array(numbers), styles[name], marker="o", markersize=3, color=f"C{column}", label=label)
    right.set_xticks(range(len(numbers)), [f"{low}-{high}" for low, high in RANGES[: len(numbers)]])
    right.set_yscale("log")
    best = min(1 - number for curves in scores.values() for numbers in curves.values() for number in numbers)
    right.set_ylim(10, min(5e-4, best / 2))  # 1 - R squared, the best on top, with room for the legend below
    explained = [share for share in (0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999) if 1 - share >= best / 2]
    right.set_yticks([1 - share for share in explained], [f"{share:g}" for share in explained])
    right.minorticks_off()
    right.grid(axis="y", color="0.9")
    right.set(xlabel="pulls so far", ylabel="R² on held-out trials", title=title)
    right.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
    figure.savefig(path, dpi=100)


def main(arguments=None):
    """Plays, compares, decodes, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="best-scratch", help="best or best-scratch (default %(default)s)")
    parser.add_argument("--num-tasks", type=int, default=2000, help="trials (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks (default 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="10 pulls, 300 trials")
    a = parser.parse_args(arguments)
    name, num_tasks = ("bandit-k5-n10", 300) if a.quick else ("bandit-k5-n100", a.num_tasks)
    shipped = describe(name, a.recipe)
    task = parse_task(shipped.task)
    trial, num_steps = Trial(task.env, task.num_episodes, shipped.config.trial.first_step_flag), task.num_episodes
    agent = rl2jax.load_agent(name, a.recipe)
    networks = make_networks(task.env, shipped.config)
    untrained = networks.agent(networks.init(jax.random.key(a.seed))["policy"])
    spec = reference_agents(task.env)["gittins"]
    settings = {**spec.fixed, **tuned_or_tune(task, "gittins", spec).hyperparameters}
    gittins = spec.make(task.env, task.num_episodes, **settings)

    print(f"{name}, recipe {a.recipe}, beside Gittins of discount {settings['discount']}")
    players = {"agent": agent, "Gittins": gittins}
    played = {who: play_tasks(player, trial, num_tasks, evaluation_key(a.seed)) for who, player in players.items()}
    compare(played)
    seen = played["agent"].trajectory
    agrees = replay(gittins, seen.trial_obs).action == seen.action
    rows = {"Gittins would have pulled the same arm": by_range(lambda steps: agrees[steps].mean(), num_steps)}
    print_table("pulls so far", rows, num_steps)

    trained, control = replay(agent, seen.trial_obs), replay(untrained, seen.trial_obs)
    means, pulls = beliefs(seen, task.env.num_arms)
    scores, readings = {}, {}
    for target, values in {"posterior mean": means, "log(1 + pulls)": np.log1p(pulls)}.items():
        readings[target] = read(trained, control, values, (num_tasks // 2, 3 * num_tasks // 4))
        scores[target] = {
            who: by_range(lambda steps, got=got, true=true: r_squared(got[steps], true[steps]), num_steps)
            for who, (got, true) in readings[target].items()
        }
        print_table(f"R2 of an arm's {target}, held out", scores[target], num_steps)
    a.out.mkdir(parents=True, exist_ok=True)
    path = a.out / f"mind_{a.recipe}.png"
    decoded, exact = readings["posterior mean"]["trained"]
    draw(decoded, exact, scores, f"{name}, {a.recipe}: linear in the hidden state", path)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
