"""Watch trained agents explore: 100 pulls on one bandit, ten episodes in one tabular MDP.

    python examples/watch_an_agent.py              # the next task: --seed 1
    python examples/watch_an_agent.py --bandit bandit-k10-n100 --recipe best-scratch

Both agents come with the package. Nothing here is trained, and neither agent's parameters change while it plays: what
it learns about its task it keeps in its hidden state.
"""

import argparse
from pathlib import Path

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import rl2jax
from rl2jax.envs.names import parse_task
from rl2jax.runs.shipped import describe
from rl2jax.trials.evaluate import evaluation_key
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial

PAY, NOTHING, NOT_PULLED = "#", "o", "."
LINES = 12  # of the first pulls, one line each


def play(name, recipe, seed):
    """One trial of a shipped agent: (task distribution, task, trajectory), the arrays numpy [num_steps, ...]."""
    shipped = describe(name, recipe)
    task = parse_task(shipped.task)
    trial = Trial(task.env, task.num_episodes, shipped.config.trial.first_step_flag)
    key_task, key_trial = jax.random.split(evaluation_key(seed))
    params = trial.env.sample_params(key_task)
    trajectory = jax.jit(rollout, static_argnums=(1, 2))(key_trial, rl2jax.load_agent(name, recipe), trial, params)
    return trial.env, jax.device_get(params), jax.device_get(trajectory)


def show_bandit(params, seen):
    """Prints the first pulls one by one with what the policy was about to do, then every arm's whole trial."""
    probs, num_arms = params.probs, len(params.probs)
    policy = np.asarray(jax.nn.softmax(seen.agent_info.dist_params))  # [num_pulls, num_arms]
    print("\npull  arm  paid   probability of pulling each arm, before it was pulled")
    for pull in range(min(LINES, len(seen.action))):
        arm, paid = seen.action[pull], seen.reward[pull] == 1
        shares = "  ".join(f"{p:4.0%}" for p in policy[pull])
        print(f"{pull + 1:4d}  {arm:3d}  {'yes' if paid else 'no':4}   {shares}")
    print(f"\nall {len(seen.action)} pulls, in time from left to right ({PAY} paid, {NOTHING} did not)")
    for arm in range(num_arms):
        pulled = seen.action == arm
        marks = np.where(pulled, np.where(seen.reward == 1, PAY, NOTHING), NOT_PULLED)
        best = "  <- the best" if arm == probs.argmax() else ""
        print(f"arm {arm}, pays {probs[arm]:4.0%}: {''.join(marks)} {pulled.sum():3d} pulls{best}")
    best, chance = probs.max() * len(seen.action), probs.mean() * len(seen.action)
    print(f"total reward {seen.reward.sum():.0f}; the best arm alone pays {best:.1f} on average, chance {chance:.1f}")


def show_mdp(env, params, seen):
    """Prints each episode's states and actions, and how many of its state-action pairs were never tried before."""
    shape = (-1, env.episode_length)
    states, actions, rewards = (x.reshape(shape) for x in (seen.trial_obs.obs, seen.action, seen.reward))
    means = params.reward_mean[states, actions]
    fresh = first_tries(states, actions, env.num_actions)
    print("\nepisode  state:action of every step (* never tried before in this trial)       new  reward  its mean")
    for episode, (s, a, new) in enumerate(zip(states, actions, fresh, strict=True)):
        path = " ".join(f"{s[t]}:{a[t]}{'*' if new[t] else ' '}" for t in range(env.episode_length))
        print(
            f"{episode + 1:7d}  {path:66}  {new.sum():4d}  {rewards[episode].sum():6.1f}  {means[episode].sum():8.1f}"
        )
    print(f"total reward {rewards.sum():.1f}")


def first_tries(states, actions, num_actions):
    """Whether a step was the first of its state and action in the trial; bool, shaped as `states`."""
    pairs = (states * num_actions + actions).ravel()
    first = np.zeros(pairs.shape, bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first.reshape(states.shape)


def draw(bandit, mdp, path):
    """The bandit's pulls over the policy that made them, and the MDP's steps with the mean reward of each."""
    (_, params, seen), (env, mdp_params, steps) = bandit, mdp
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6.4), layout="constrained", height_ratios=(3, 4))
    policy = np.asarray(jax.nn.softmax(seen.agent_info.dist_params)).T
    num_arms, num_pulls = policy.shape
    drawn = above.imshow(
        policy, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=(0.5, num_pulls + 0.5, num_arms - 0.5, -0.5)
    )
    for reward, colour, label in ((1, "tab:green", "paid"), (0, "tab:red", "did not pay")):
        pulls = np.flatnonzero(seen.reward == reward)
        above.scatter(pulls + 1, seen.action[pulls], s=14, color=colour, edgecolor="white", linewidth=0.4, label=label)
    above.set_yticks(range(num_arms), [f"arm {arm}: {p:.2f}" for arm, p in enumerate(params.probs)])
    above.set(xlabel="pull", title="a bandit: what was pulled, over the policy's probabilities")
    above.legend(loc="upper right", ncols=2, fontsize=8, framealpha=1)
    figure.colorbar(drawn, ax=above, label="probability")
    shape = (-1, env.episode_length)
    states, actions = steps.trial_obs.obs.reshape(shape), steps.action.reshape(shape)
    means = mdp_params.reward_mean[states, actions]
    most = np.abs(mdp_params.reward_mean - 1).max()
    drawn = below.imshow(means, aspect="auto", cmap="RdBu", vmin=1 - most, vmax=1 + most)
    for (episode, step), new in np.ndenumerate(first_tries(states, actions, env.num_actions)):
        text = f"{states[episode, step]}:{actions[episode, step]}"
        below.text(step, episode, text, ha="center", va="center", fontsize=8, weight="bold" if new else "normal")
    below.set_xticks(range(env.episode_length), range(1, env.episode_length + 1))
    below.set_yticks(range(len(states)), range(1, len(states) + 1))
    below.set(
        xlabel="step",
        ylabel="episode",
        title="a tabular MDP: state:action (bold: the first time), colour its mean reward",
    )
    figure.colorbar(drawn, ax=below, label="mean reward")
    figure.savefig(path, dpi=100)


def main(arguments=None):
    """Plays, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bandit", default="bandit-k5-n100", help="a shipped agent (default %(default)s)")
    parser.add_argument("--recipe", default="best", help="the bandit agent's (default %(default)s; see rl2jax agents)")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks (default 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="the agent of 10 pulls instead of 100")
    a = parser.parse_args(arguments)
    name = "bandit-k5-n10" if a.quick else a.bandit
    bandit = play(name, a.recipe, a.seed)
    print(f"{name}, recipe {a.recipe}: a bandit that it has never seen")
    show_bandit(*bandit[1:])
    mdp = play("mdp-n10", "best-scratch", a.seed)
    print("\nmdp-n10, recipe best-scratch: an MDP that it has never seen")
    show_mdp(*mdp)
    a.out.mkdir(parents=True, exist_ok=True)
    draw(bandit, mdp, a.out / "watch.png")
    print(f"\n{a.out / 'watch.png'}")


if __name__ == "__main__":
    main()
