"""One frozen dataclass holds every setting of a training run, and the presets are instances of it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from rl2jax.settings import require


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; the defaults are the paper's for bandits (appendix A.1, table 1).

    Attributes:
      num_episodes: n, episodes in a trial.
      iterations: policy iterations, one batch each.
      batch_size: time steps in a batch; batch_size // (steps in a trial) whole trials are collected.
      lane_steps: 0: each trial has its own row of a batch, as long as a trial can last, and what remains after its end
        is wasted. Above: rows ("lanes") of so many steps, in which the next trial, on a fresh task, follows as soon as
        one has ended: batch_size // lane_steps of them, which count where minibatches, devices and shares of the batch
        count trials. For trials of varying length; a lane's end cuts the last one. At least about the steps of a long
        trial, for what comes later in a trial than a lane is long is never learned.
      trials_per_task: so many trials of a batch are of one task, which is drawn once for all of them (common tasks): a
        divisor of the number of trials. 1 with lane_steps.
      algorithm: "trpo" (natural gradient), "ppo" (first-order, as the authors' settings have it), "a2c" (one gradient
        step on the policy gradient of the whole batch: Mnih et al. 2016, Wang et al. 2016) or "imitation" (supervised
        learning of a teacher's actions, section 3.1; needs a teacher).
      teacher: "imitation": name of the reference agent that is imitated.
      teacher_acts: "imitation": whether the teacher plays the trials, or the student does and the teacher says
        what it would have done (Ross et al. 2011).
      student_share: "imitation", where the teacher acts: share of the steps, drawn anew each time, at which the student
        acts all the same, so that the teacher shows how to go on from there.
      teacher_temperature: "imitation": 0: the teacher's action is imitated; above, the softmax at this temperature of
        the values that it gives to all actions, so that ties and near ties are no noise. Needs a teacher that reveals
        values (`ReferenceAgent.teaching`).
      discount: of the trial's rewards, through episode ends.
      gae_lambda: of generalised advantage estimation.
      normalise_advantages: to mean 0 and variance 1 in each batch; Wang et al. 2016 take them as they are.
      normalise_returns: the baseline learns returns on the scale of all returns so far; False: as they are.
      max_kl: mean KL per step between successive policies, in nats; inf switches it off (not with "trpo").
      max_kl_schedule: "trpo", "ppo": "constant", "linear" or "cosine", to 0 at the last iteration; constant where
        max_kl is inf.
      entropy_coefficient: weight of the mean entropy added to the surrogate.
      entropy_schedule: "constant", "linear" or "cosine", to 0 at the last iteration.
      task_inference_coefficient: not "trpo": weight of an auxiliary squared error: a second head on the policy's
        hidden state predicts `TaskDistribution.task_features`, which training knows and the agent must infer
        (Humplik et al. 2019). Nothing of it is used in acting. Beyond the paper; 0 in its presets.
      expected_rewards: learn from `TaskDistribution.expected_reward`, which training knows, in place of the rewards
        that were drawn: the same objective with less noise. Agents see rewards only. Beyond the paper.
      baseline_sees_task: the baseline is given `TaskDistribution.task_features` too (an asymmetric critic: Pinto et al.
        2018). It serves training only, so the policy still knows nothing of the task. Not with a shared trunk. Beyond
        the paper.
      baseline_warmup_iterations: the policy stays as it is for so many iterations, while the baseline is fitted: for a
        policy that does not start from scratch. 0 with a shared trunk.
      natural_steps: "trpo": steps on each batch, each with gradient and Fisher matrix of where the last one led. max_kl
        limits all of them together, as the KL from the policy that collected the batch (`trpo.trpo_update`).
      fisher_fraction: "trpo": share of the batch's trials in Fisher-vector products.
      cg_iters: "trpo": conjugate-gradient iterations.
      cg_damping: "trpo": added to the Fisher matrix's diagonal.
      backtrack_ratio: "trpo": factor between steps of the line search.
      clip_range: "ppo": of the probability ratio, around 1.
      policy_epochs: "ppo": passes over the batch.
      policy_minibatch_trials: "ppo": whole trials in a minibatch.
      optimiser: "adam" or "rmsprop", of all but "trpo"'s policy.
      policy_learning_rate: "ppo", "a2c", "imitation": of the optimiser.
      learning_rate_schedule: "constant", "linear" or "cosine", to 0 at the last iteration; policy and baseline.
      gradient_clip: gradients are clipped to +- this, elementwise (baseline, and every policy but "trpo"'s).
      gradient_norm_clip: and then, as one vector, to this Euclidean norm; inf: they are not.
      baseline_epochs: passes over the batch to fit the baseline, after the advantages are computed.
      baseline_minibatch_trials: whole trials in a minibatch.
      baseline_learning_rate: of the optimiser.
      shared_trunk: policy and baseline are two heads of one network, trained in one loss. Frames always have such a
        network (appendix A.3).
      baseline_loss_coefficient: with a shared trunk, in place of the baseline's epochs, minibatches and learning rate:
        weight of the values' squared error in the joint loss (Wang et al. 2016: 0.05). Where a source writes the
        gradient as the error times that of the value, its weight is twice this one.
      network: "recurrent", the paper's (with a convolutional trunk for frames), "planner": counts of what was seen in
        each state, and value iteration on them with learned bonuses, for Discrete observations and actions
        (`planning_network`), "per_arm": a memory for each action, all with one cell, for bandits (`per_arm_network`),
        or "per_pair": one for each state and action, and messages between states, for Discrete observations and actions
        (`per_pair_network`). All but the first are beyond the paper; the last two always see the time that is left.
      initial_bonus: "planner": what its plan adds at first, divided by 2 + visits, to the reward of each action.
      cell: the recurrent layer, "gru", "layer_norm_gru" (a GRU with layer normalisation: Ba et al. 2016) or "lstm".
      gru_units: hidden units of the recurrent layer, in policy and baseline; with network "per_arm" or "per_pair"
        those of each arm or pair.
      learned_initial_state: the recurrent layer's state at a trial's start is a parameter, which starts at 0; False,
        the paper's: zeros. With network "recurrent".
      episodic_units: share of the recurrent layer's units, to the nearest unit, that are set back to their value at a
        trial's start whenever an episode starts; 0: all of them remember the whole trial. (Duan et al. 2016, section
        2.3, saw no gain in resetting a part.) With network "recurrent".
      activation: of the GRU's candidate, or the LSTM's candidate and output: "relu" or "tanh".
      weight_norm: weight normalisation on every matrix.
      memory_horizon: steps over which the GRU's update gates, or the LSTM's forget and input gates, are initialised to
        remember (Tallec & Ollivier 2018); 0, the paper's, starts all biases at 0.
      matmul_precision: of the matrix products in the recurrent layer and before it: "default" (the device's own),
        "float32" or "bfloat16"; see `products.product`.
      time_input: the networks see the step's index in the trial, divided by the trial's number of steps (Wang et al.
        2016).
      first_step_flag: termination flag shown at a trial's first step (appendix A: 0).
      iterations_per_chunk: iterations that run on the device between two visits to the host.
    """

    num_episodes: int = 10
    iterations: int = 1000
    batch_size: int = 250_000
    lane_steps: int = 0
    trials_per_task: int = 1
    algorithm: str = "trpo"
    teacher: str = ""
    teacher_acts: bool = True
    student_share: float = 0.0
    teacher_temperature: float = 0.0
    discount: float = 0.99
    gae_lambda: float = 0.3
    normalise_advantages: bool = True
    normalise_returns: bool = True
    max_kl: float = 0.01
    max_kl_schedule: str = "constant"
    entropy_coefficient: float = 0.0
    entropy_schedule: str = "constant"
    task_inference_coefficient: float = 0.0
    expected_rewards: bool = False
    baseline_sees_task: bool = False
    baseline_warmup_iterations: int = 0
    natural_steps: int = 1
    fisher_fraction: float = 1.0
    cg_iters: int = 10
    cg_damping: float = 1e-3
    backtrack_ratio: float = 0.5
    clip_range: float = 0.1
    policy_epochs: int = 5
    policy_minibatch_trials: int = 128
    optimiser: str = "adam"
    policy_learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    gradient_clip: float = 40.0
    gradient_norm_clip: float = math.inf
    baseline_epochs: int = 5
    baseline_minibatch_trials: int = 128
    baseline_learning_rate: float = 1e-3
    shared_trunk: bool = False
    baseline_loss_coefficient: float = 0.5
    network: str = "recurrent"
    initial_bonus: float = 1.5
    cell: str = "gru"
    gru_units: int = 256
    learned_initial_state: bool = False
    episodic_units: float = 0.0
    activation: str = "relu"
    weight_norm: bool = True
    memory_horizon: int = 0
    matmul_precision: str = "default"
    time_input: bool = False
    first_step_flag: float = 0.0
    iterations_per_chunk: int = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked_type(field.name, field.type, value))
        for name in _AT_LEAST_ONE:
            require(getattr(self, name) >= 1, name, getattr(self, name), ">= 1")
        for name in _AT_LEAST_ZERO:
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "finite and >= 0")
        for name in _POSITIVE:
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "finite and > 0")
        for name, most in _AT_MOST.items():
            require(getattr(self, name) <= most, name, getattr(self, name), f"at most {most:g}")
        for name in _UNIT_INTERVAL:
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        for name, allowed in _CHOICES.items():
            require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        for name in ("max_kl", "gradient_norm_clip"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0")
        require(self.max_kl < math.inf or self.algorithm != "trpo", "max_kl", self.max_kl, "finite with trpo")
        limited = self.max_kl_schedule == "constant" or self.max_kl < math.inf
        require(limited, "max_kl_schedule", self.max_kl_schedule, "constant with max_kl inf")
        require(
            self.task_inference_coefficient == 0 or self.algorithm != "trpo",
            "task_inference_coefficient",
            self.task_inference_coefficient,
            "0 with trpo",
        )
        temperature = self.teacher_temperature
        require(temperature == 0 or temperature >= 1e-6, "teacher_temperature", temperature, "0 or at least 1e-06")
        require(self.teacher == "" or self.algorithm == "imitation", "teacher", self.teacher, "empty without imitation")
        lane_steps = self.lane_steps
        require(lane_steps == 0 or lane_steps >= 2, "lane_steps", lane_steps, "0 or at least 2")
        if lane_steps:
            require(not self.baseline_sees_task, "baseline_sees_task", self.baseline_sees_task, "false with lane_steps")
            require(self.network == "recurrent", "network", self.network, "recurrent with lane_steps")
            require(self.trials_per_task == 1, "trials_per_task", self.trials_per_task, "1 with lane_steps")
        for name, off in (("learned_initial_state", "false"), ("episodic_units", "0")):
            value, supported = getattr(self, name), self.network == "recurrent"
            require(supported or not value, name, value, f"{off} with network {self.network}")
        require(0 < self.fisher_fraction <= 1, "fisher_fraction", self.fisher_fraction, "in (0, 1]")
        require(0 < self.backtrack_ratio < 1, "backtrack_ratio", self.backtrack_ratio, "in (0, 1)")

    def to_json(self) -> dict[str, Any]:
        """Settings as JSON values: an infinity, which JSON lacks, becomes the text "inf"."""
        return {k: "inf" if v == math.inf else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_json`; settings that are missing take their defaults."""
        return cls().replace(**{k: math.inf if v == "inf" else v for k, v in settings.items()})

    def replace(self, **changes: Any) -> "TrainConfig":
        """A copy with some fields changed; checked again."""
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        require(not unknown, "config field", ", ".join(unknown), f"one of {', '.join(field_names())}")
        return dataclasses.replace(self, **changes)


_AT_LEAST_ONE = (
    "num_episodes",
    "iterations",
    "batch_size",
    "trials_per_task",
    "natural_steps",
    "cg_iters",
    "policy_epochs",
    "policy_minibatch_trials",
    "baseline_epochs",
    "baseline_minibatch_trials",
    "gru_units",
    "iterations_per_chunk",
)
_AT_LEAST_ZERO = (
    "initial_bonus",
    "entropy_coefficient",
    "task_inference_coefficient",
    "cg_damping",
    "memory_horizon",
    "baseline_warmup_iterations",
    "teacher_temperature",
)
_POSITIVE = (
    "policy_learning_rate",
    "baseline_learning_rate",
    "baseline_loss_coefficient",
    "gradient_clip",
    "clip_range",
)
# Beyond these the first updates overflow: no training begins so.
_AT_MOST = {
    "entropy_coefficient": 1e6,
    "task_inference_coefficient": 1e6,
    "baseline_loss_coefficient": 1e6,
    "cg_damping": 1e6,
    "clip_range": 1e6,
    "teacher_temperature": 1e6,
    "policy_learning_rate": 10.0,
    "baseline_learning_rate": 10.0,
}
_UNIT_INTERVAL = ("discount", "gae_lambda", "first_step_flag", "student_share", "episodic_units")
_CHOICES = {
    "algorithm": ("trpo", "ppo", "a2c", "imitation"),
    "optimiser": ("adam", "rmsprop"),
    "network": ("recurrent", "planner", "per_arm", "per_pair"),
    "cell": ("gru", "layer_norm_gru", "lstm"),
    "activation": ("relu", "tanh"),
    "matmul_precision": ("default", "float32", "bfloat16"),
    "learning_rate_schedule": ("constant", "linear", "cosine"),
    "entropy_schedule": ("constant", "linear", "cosine"),
    "max_kl_schedule": ("constant", "linear", "cosine"),
}
_TYPES = {"int": int, "float": float, "str": str, "bool": bool, int: int, float: float, str: str, bool: bool}


def field_names() -> list[str]:
    """Names of all settings."""
    return [field.name for field in dataclasses.fields(TrainConfig)]


def _checked_type(name: str, annotation: Any, value: Any) -> Any:
    kind = _TYPES[annotation]
    article = {int: "an integer", float: "a number", str: "a name", bool: "true or false"}[kind]
    if kind in (int, float) and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 2**31, name, _shortened(value), f"{article} less than 2^31")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(right, name, value, article)
    if kind is float:
        require(not math.isnan(value), name, value, "a number")
        require(math.isinf(value) or abs(value) <= _LARGEST_FLOAT32, name, value, "a number that float32 can hold")
    return value


_LARGEST_FLOAT32 = 3.4028234e38


def _shortened(value: int) -> int | str:
    """An integer that can be printed: Python refuses thousands of digits."""
    return value if abs(value) < 10**20 else "one of more than 20 digits"


def parse_overrides(assignments: list[str]) -> dict[str, Any]:
    """Turns ["gae_lambda=0.9", ...] into {"gae_lambda": 0.9, ...}, typed as the config's fields.

    Raises:
      ValueError: naming the field, the value and what is allowed.
    """
    kinds = {field.name: _TYPES[field.type] for field in dataclasses.fields(TrainConfig)}  # type: ignore[index]
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        require(bool(equals), "--set", assignment, "of the form field=value")
        require(name in kinds, "--set field", name, f"one of {', '.join(kinds)}")
        overrides[name] = _parse(name, kinds[name], text)
    return overrides


def _parse(name: str, kind: type, text: str) -> Any:
    if kind is bool:
        require(text.lower() in ("true", "false"), name, text, "true or false")
        return text.lower() == "true"
    try:
        return kind(text.replace("_", "") if kind is int else text)
    except ValueError:
        raise ValueError(f"{name} must be {'an integer' if kind is int else 'a number'}, got {text!r}") from None
