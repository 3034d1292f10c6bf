"""The README's lines for a trained agent, in a process of its own; started by `experiments.benchmarks.loading`."""

from typing import Any

from experiments.benchmarks.timing import answer_parent, peak_memory


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Loads an agent and plays trials of its own task; what is imported is imported here, as a user's program does.

    Args:
      settings: "name" and "recipe" of an agent of the package, its "task", "num_trials".

    Returns:
      mean return, max_rss_bytes of the process, and platform, device, jax.
    """
    import jax

    import rl2jax
    from rl2jax.envs.names import parse_task
    from rl2jax.trials.evaluate import evaluate, evaluation_key
    from rl2jax.trials.trial import Trial

    agent = rl2jax.load_agent(settings["name"], settings["recipe"])
    task = parse_task(settings["task"])
    evaluation = evaluate(agent, Trial(task.env, task.num_episodes), settings["num_trials"], evaluation_key(seed=0))
    return {
        "mean": float(evaluation.mean),
        "max_rss_bytes": peak_memory(),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    answer_parent(main)
