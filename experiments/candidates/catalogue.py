"""The candidates, each as what it changes of the base. What has no setting yet is listed in docs/appendix_recipes.md.

The base is the preset `cpu` of the task. A candidate is added here and nowhere else.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rl2jax.envs.bandit import BANDIT
from rl2jax.envs.names import Task
from rl2jax.envs.tabular_mdp import MDP
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.presets import preset_for
from rl2jax.training.recipes import Stage

PRESET = "cpu"
_NONE: Mapping[str, Any] = {}


class Changes(NamedTuple):
    """What a training does differently from the base.

    Attributes:
      fields: of the config, with their values.
      factors: of the config's numbers, by which the base's are multiplied; integers are rounded and stay >= 1.
      by_kind: kind of task -> further fields.
      episodes: share of the trial's episodes that are played; the number is rounded and stays >= 1.
    """

    fields: Mapping[str, Any] = _NONE
    factors: Mapping[str, float] = _NONE
    by_kind: Mapping[str, Mapping[str, Any]] = _NONE
    episodes: float = 1.0


class Candidate(NamedTuple):
    """One way to train.

    Attributes:
      name: of its rows and folders.
      summary: one sentence for the report.
      changes: to the base.
      first: changes to the base in a training that comes before; the main one starts from its parameters.
      first_share: of the time, that this training takes.
    """

    name: str
    summary: str
    changes: Changes = Changes()
    first: Changes | None = None
    first_share: float = 0.0


class Part(NamedTuple):
    """One training of a candidate on one task.

    Attributes:
      share: of the candidate's time.
      stage: name, task and settings; its `iterations` are those of the preset until they are derived.
    """

    share: float
    stage: Stage


def base_config(task: Task, overrides: Mapping[str, Any]) -> TrainConfig:
    """The base: the preset, with fields that are to differ for all candidates."""
    return preset_for(task, PRESET).replace(overrides)


def parts_of(candidate: Candidate, task: Task, overrides: Mapping[str, Any] = _NONE) -> list[Part]:
    """The trainings of a candidate, in order; the last one is the main one.

    Args:
      candidate: one of `CANDIDATES`.
      task: that is to be learned.
      overrides: fields of the base that differ from its preset.

    Raises:
      ValueError: naming a setting that is not allowed.
    """
    # Networks start with memory for the trials that they will meet in the end.
    overrides = {"network.memory_horizon": base_config(task, overrides).network.memory_horizon, **overrides}
    main = _part("main", 1.0 - candidate.first_share, candidate.changes, task, overrides)
    if candidate.first is None:
        return [main]
    return [_part("first", candidate.first_share, candidate.first, task, overrides), main]


def _part(name: str, share: float, changes: Changes, task: Task, overrides: Mapping[str, Any]) -> Part:
    require(0.0 < share <= 1.0, "share of the time", share, "in (0, 1]")
    if changes.episodes != 1.0:
        task = task.with_settings(n=max(1, round(changes.episodes * task.num_episodes)))
    base = base_config(task, overrides)
    scaled = {field: _scaled(base.get(field), factor) for field, factor in changes.factors.items()}
    fields = {**scaled, **changes.fields, **changes.by_kind.get(task.kind.name, {})}
    return Part(share, Stage(name, task, base.replace(fields)))


def _scaled(value: float, factor: float) -> float:
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor


def differences(config: TrainConfig, base: TrainConfig) -> dict[str, Any]:
    """The fields of a config that differ from the base's, as JSON values; `iterations` left out."""
    reference = base.flat()
    changed = {k: v for k, v in config.flat().items() if k not in reference or v != reference[k]}
    return {k: "inf" if v == math.inf else v for k, v in changed.items() if k != "iterations"}


# Without the auxiliary loss, which the natural gradient does not have; its trust region is its entropy bonus.
_NATURAL = {
    "slow_rl": "trpo",
    "objective.task_inference_coefficient": 0.0,
    "objective.entropy_coefficient": 0.0,
    "slow_rl.max_kl": 0.01,
}
# An MDP's teacher has many ties, which it breaks at random: its action values are imitated, not its actions.
TEACHING: dict[str, dict[str, Any]] = {
    "bandit": {"imitation.teacher": BANDIT.teacher},
    "mdp": {"imitation.teacher": MDP.teacher, "imitation.temperature": 0.1},
}
_IMITATION = Changes({"slow_rl": "imitation", "objective.entropy_coefficient": 0.0}, by_kind=TEACHING)
# Of a policy that plays well before rewards have taught it anything.
_AFTERWARDS = {
    "baseline.warmup_iterations": 5,
    "objective.gae_lambda": 0.9,
    "objective.entropy_coefficient": 0.0,
    "objective.task_inference_coefficient": 0.0,
}
_PRIVILEGED = {"baseline.sees_task": True, "objective.expected_rewards": True}
# What is learned of one arm, or state and action, holds for the others.
_EXCHANGEABLE = Changes(
    {"network.units": 32, "objective.task_inference_coefficient": 0.0},
    by_kind={"bandit": {"network": "per_arm"}, "mdp": {"network": "per_pair"}},
)
_BOTH_RATES = ("slow_rl.learning_rate", "baseline.learning_rate")

BASE = Candidate("base", "The preset `cpu`.")
CANDIDATES = (
    BASE,
    # What training knows and the agent does not.
    Candidate("asymmetric-critic", "The baseline sees the task.", Changes({"baseline.sees_task": True})),
    Candidate(
        "expected-rewards", "Learns from mean rewards, not drawn ones.", Changes({"objective.expected_rewards": True})
    ),
    Candidate("privileged", "The baseline sees the task, and rewards are mean ones.", Changes(_PRIVILEGED)),
    Candidate(
        "privileged-lambda-0.9",
        "The same with advantages that lean on the baseline less.",
        Changes({**_PRIVILEGED, "objective.gae_lambda": 0.9}),
    ),
    Candidate(
        "no-task-inference",
        "No auxiliary loss on what the task is: what natural steps, which have none, are to be held against.",
        Changes({"objective.task_inference_coefficient": 0.0}),
    ),
    Candidate(
        "task-inference-3",
        "Three times the auxiliary loss.",
        Changes(factors={"objective.task_inference_coefficient": 3.0}),
    ),
    # Natural gradient and first-order steps.
    Candidate("natural", "One natural step per batch (TRPO).", Changes(_NATURAL)),
    Candidate(
        "natural-fifth",
        "Natural steps five times as large, from Fisher products over a fifth of the trials.",
        Changes({**_NATURAL, "trpo.fisher_fraction": 0.2, "slow_rl.max_kl": 0.05}),
    ),
    Candidate(
        "natural-small-batches",
        "Four natural steps in the place of one, each from a batch of a quarter of the size.",
        Changes(_NATURAL, {"batch.size": 0.25}),
    ),
    Candidate(
        "natural-four-steps",
        "Four natural steps on every batch, all of them within the limit that one has.",
        Changes({**_NATURAL, "trpo.steps": 4}),
    ),
    Candidate(
        "natural-four-wide",
        "Four natural steps on every batch, all of them within five times the limit.",
        Changes({**_NATURAL, "trpo.steps": 4, "slow_rl.max_kl": 0.05}),
    ),
    Candidate(
        "natural-limit-falls",
        "One natural step per batch within a limit that falls to 0, and is on average that of `natural`.",
        Changes({**_NATURAL, "slow_rl.max_kl": 0.02, "slow_rl.max_kl_schedule": "linear"}),
    ),
    Candidate(
        "kl-limit",
        "First-order epochs within a KL limit, as in the preset paper-first-order.",
        Changes({"slow_rl.max_kl": 0.05}),
    ),
    Candidate(
        "kl-limit-falls",
        "The same with a limit that falls to 0, and is on average as high.",
        Changes({"slow_rl.max_kl": 0.1, "slow_rl.max_kl_schedule": "linear"}),
    ),
    Candidate("policy-epochs-half", "Half as many epochs per batch.", Changes(factors={"slow_rl.epochs": 0.5})),
    Candidate("policy-epochs-double", "Twice as many epochs per batch.", Changes(factors={"slow_rl.epochs": 2.0})),
    Candidate("minibatches-half", "Minibatches of half the size.", Changes(factors={"slow_rl.minibatch_trials": 0.5})),
    Candidate("batches-half", "Batches of half the size.", Changes(factors={"batch.size": 0.5})),
    Candidate("batches-double", "Batches of twice the size.", Changes(factors={"batch.size": 2.0})),
    Candidate(
        "batches-grow",
        "Batches of half the size at first, with a constant learning rate, then of twice the size.",
        Changes(factors={"batch.size": 2.0}),
        Changes({"optimiser.schedule": "constant"}, {"batch.size": 0.5}),
        first_share=0.5,
    ),
    Candidate("common-tasks", "Four trials of a batch are of one task.", Changes({"batch.trials_per_task": 4})),
    # Horizons and the baseline.
    Candidate("discount-0.99", "The paper's discount.", Changes({"objective.discount": 0.99})),
    Candidate("lambda-0.6", "Advantages that lean on the baseline less.", Changes({"objective.gae_lambda": 0.6})),
    Candidate("lambda-0.9", "Advantages that hardly lean on the baseline.", Changes({"objective.gae_lambda": 0.9})),
    Candidate(
        "targets-as-they-are",
        "The baseline's targets are not normalised.",
        Changes({"objective.normalise_returns": False}),
    ),
    Candidate(
        "baseline-epochs-half", "Half as many epochs of the baseline.", Changes(factors={"baseline.epochs": 0.5})
    ),
    Candidate(
        "baseline-epochs-double", "Twice as many epochs of the baseline.", Changes(factors={"baseline.epochs": 2.0})
    ),
    # Schedules.
    Candidate(
        "entropy-third", "A third of the entropy bonus.", Changes(factors={"objective.entropy_coefficient": 1 / 3})
    ),
    Candidate("entropy-double", "Twice the entropy bonus.", Changes(factors={"objective.entropy_coefficient": 2.0})),
    Candidate(
        "entropy-cosine", "An entropy bonus that falls as a cosine.", Changes({"objective.entropy_schedule": "cosine"})
    ),
    Candidate("learning-rate-half", "Half the learning rates.", Changes(factors=dict.fromkeys(_BOTH_RATES, 0.5))),
    Candidate("learning-rate-double", "Twice the learning rates.", Changes(factors=dict.fromkeys(_BOTH_RATES, 2.0))),
    Candidate("gradient-clip-0.1", "Gradients clipped far lower.", Changes({"optimiser.clip": 0.1})),
    # Networks.
    Candidate("gru-half", "Half as many units.", Changes(factors={"network.units": 0.5})),
    Candidate("tanh", "A GRU with tanh in the place of the rectifier.", Changes({"network.activation": "tanh"})),
    Candidate("layer-norm", "A GRU with layer normalisation.", Changes({"network.cell": "layer_norm_gru"})),
    Candidate("exchangeable", "A memory for each arm, or each pair of state and action.", _EXCHANGEABLE),
    Candidate(
        "exchangeable-privileged",
        "The same, and with what training knows, and advantages that lean on the baseline less.",
        _EXCHANGEABLE._replace(fields={**_EXCHANGEABLE.fields, **_PRIVILEGED, "objective.gae_lambda": 0.9}),
    ),
    Candidate(
        "learned-initial-state", "Where memory starts is learned.", Changes({"network.learned_initial_state": True})
    ),
    Candidate(
        "episodic-half",
        "Half of the units forget when an episode starts: in a bandit at every pull.",
        Changes({"network.episodic_units": 0.5}),
    ),
    # Where training starts.
    Candidate(
        "curriculum", "Trials of a quarter of the episodes at first.", first=Changes(episodes=0.25), first_share=0.3
    ),
    Candidate("imitation", "Imitates the strongest reference agent, and learns from no reward.", _IMITATION),
    Candidate(
        "imitation-first",
        "Imitates the strongest reference agent at first; then its baseline is fitted before its policy moves.",
        Changes({"baseline.warmup_iterations": 5}),
        _IMITATION,
        first_share=0.2,
    ),
    Candidate(
        "imitation-then-privileged",
        "Imitates for longer, then moves in small steps with a baseline that sees the task and with mean rewards.",
        Changes({**_AFTERWARDS, **_PRIVILEGED}, {"slow_rl.learning_rate": 0.1}),
        _IMITATION._replace(
            fields={**_IMITATION.fields, "objective.task_inference_coefficient": 0.0, "slow_rl.epochs": 2}
        ),
        first_share=0.6,
    ),
)
