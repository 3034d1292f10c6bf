"""What a config describes: the trial that is played, and the networks, of one family or another."""

from typing import Any

from rl2jax.envs.base import spaces
from rl2jax.networks.base import Networks, PolicyAndBaseline, distribution_for, encoding_for
from rl2jax.networks.frames import SharedVisionNetwork, frames_for, shows_frames
from rl2jax.networks.per_arm import PerArmNetworks, is_constant
from rl2jax.networks.per_pair import PerPairNetworks
from rl2jax.networks.planning import PlanningNetwork
from rl2jax.networks.shared import SharedVectorNetwork
from rl2jax.settings import field_names, require
from rl2jax.training.config import TrainConfig
from rl2jax.trials.trial import Trial, starts_alike

_NOT_PASSED = ("shared_trunk", "time_input", "initial_bonus")  # they choose a family, or say what others must compute


def make_trial(env: Any, config: TrainConfig) -> Trial:
    """The trial that a config describes."""
    return Trial(env, config.trial.num_episodes, config.trial.first_step_flag)


def make_networks(env: Any, config: TrainConfig) -> Networks:
    """The networks that a config describes, for an environment's spaces: a shared one for frames or if told so.

    Raises:
      ValueError: if the environment's spaces are not supported, it has no task features to infer, or the config asks
        of a shared network what needs a baseline of its own.
    """
    inferred, seen = config.objective.task_inference_coefficient > 0, config.baseline.sees_task
    num_task_features = env.num_task_features if inferred or seen else 0
    if (inferred or seen) and num_task_features == 0:
        field = "objective.task_inference_coefficient" if inferred else "baseline.sees_task"
        raise ValueError(
            f"{field} must be {0 if inferred else 'false'} for {env.name}, whose task_features are empty, "
            f"got {config.flat()[field]}"
        )
    observation_space, action_space = env.observation_space(None), env.action_space(None)
    common: dict[str, Any] = {
        "action": encoding_for(action_space, "action space"),
        "distribution": distribution_for(action_space),
        "num_task_features": num_task_features if inferred else 0,
        **{
            name: getattr(config.network, name) for name in field_names(type(config.network)) if name not in _NOT_PASSED
        },
    }
    if config.network.name == "planner":
        return _planning_network(env, config, common)
    if config.network.name == "per_arm":
        return _per_arm_networks(env, config, common, num_task_features)
    if config.network.name == "per_pair":
        return _per_pair_networks(env, config, common, num_task_features)
    common["trial_steps"] = make_trial(env, config).num_steps if config.network.time_input else 0
    frames = shows_frames(observation_space)
    if frames or config.network.shared_trunk:
        shared = f"for {env.name}, whose policy and baseline share a network"
        require(not seen, "baseline.sees_task", seen, f"false {shared}")
        warmup = config.baseline.warmup_iterations
        require(warmup == 0, "baseline.warmup_iterations", warmup, f"0 {shared}")
        if frames:
            return SharedVisionNetwork(observation=frames_for(observation_space), **common)
    # Not with rounded products: what all trials have in common at the start is given the sum of their gradients, which
    # would be rounded as one number, where roundings of many even out.
    common["starts_alike"] = config.network.matmul_precision != "bfloat16" and starts_alike(make_trial(env, config))
    if config.network.shared_trunk:
        return SharedVectorNetwork(observation=encoding_for(observation_space, "observation space"), **common)
    return PolicyAndBaseline(
        observation=encoding_for(observation_space, "observation space"),
        num_baseline_task_inputs=num_task_features if seen else 0,
        **common,
    )


def _planning_network(env: Any, config: TrainConfig, common: dict[str, Any]) -> PlanningNetwork:
    """The network that plans.

    Raises:
      ValueError: if the environment's spaces are not tables, or the config asks for what it does not have.
    """
    for what, space in ("observation space", env.observation_space(None)), ("action space", env.action_space(None)):
        require(isinstance(space, spaces.Discrete), what, space, "Discrete for network planner")
    for field in "objective.task_inference_coefficient", "baseline.sees_task":
        value = config.flat()[field]
        require(not value, field, value, "0 or false with network planner")
    changes = {
        "trial_steps": make_trial(env, config).num_steps,
        "horizon": env.episode_length,
        "initial_bonus": config.network.initial_bonus,
    }
    return PlanningNetwork(observation=encoding_for(env.observation_space(None), ""), **common | changes)


def _per_arm_networks(env: Any, config: TrainConfig, common: dict[str, Any], num_task_features: int) -> PerArmNetworks:
    """The networks with a memory for each arm.

    Raises:
      ValueError: if actions are not Discrete, observations are frames, task features are not one for each action, or
        the config asks for what these networks do not have.
    """
    space, observation_space = env.action_space(None), env.observation_space(None)
    require(isinstance(space, spaces.Discrete), "action space", space, "Discrete for network per_arm")
    allowed = f"{space.n} for network per_arm, one for each action of {env.name}, or 0"
    require(num_task_features in (0, space.n), "number of task features", num_task_features, allowed)
    return PerArmNetworks(
        observation=encoding_for(observation_space, "observation space"),
        sees_observation=not is_constant(observation_space),
        baseline_sees_task=config.baseline.sees_task,
        **common | {"trial_steps": make_trial(env, config).num_steps},
    )


def _per_pair_networks(
    env: Any, config: TrainConfig, common: dict[str, Any], num_task_features: int
) -> PerPairNetworks:
    """The networks with a memory for each pair of state and action.

    Raises:
      ValueError: if observations or actions are not Discrete, task features are not one for each pair, or the config
        asks for what these networks do not have.
    """
    for what, space in ("observation space", env.observation_space(None)), ("action space", env.action_space(None)):
        require(isinstance(space, spaces.Discrete), what, space, "Discrete for network per_pair")
    pairs = env.observation_space(None).n * env.action_space(None).n
    allowed = f"{pairs} for network per_pair, one for each state and action of {env.name}, or 0"
    require(num_task_features in (0, pairs), "number of task features", num_task_features, allowed)
    return PerPairNetworks(
        observation=encoding_for(env.observation_space(None), "observation space"),
        baseline_sees_task=config.baseline.sees_task,
        horizon=env.episode_length,
        **common | {"trial_steps": make_trial(env, config).num_steps},
    )
