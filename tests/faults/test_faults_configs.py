"""Hundreds of drawn configs: each trains two iterations with finite metrics, or is refused by a field's name.

A program is compiled for each static combination in `COMBINATIONS`, ten seconds of a core; numbers that no shape and no
branch depends on enter it as arguments, so that a config costs milliseconds. A new field of `TrainConfig` is drawn by
itself; a new number that Python branches on fails here until it is named in `BRANCHED_ON` and in a combination.
"""

import math
import re
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rl2jax.agents import Agent
from rl2jax.envs.names import parse_task
from rl2jax.settings import InputError
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Learner
from rl2jax.training.loop import train
from rl2jax.training.teacher import teacher_of
from rl2jax.training.update import init_train_state

NUMBER = 500
TINY = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 3,
        "batch.size": 12,
        "iterations": 2,
        "network.units": 2,
        "slow_rl.epochs": 1,
        "slow_rl.minibatch_trials": 2,
        "baseline.epochs": 1,
        "baseline.minibatch_trials": 2,
    }
)
BANDIT, MDP = "bandit:k=2,n=3", "mdp:s=2,a=2,t=2,n=3"
IMITATION = {"slow_rl": "imitation", "imitation.teacher": "gittins_finite_horizon"}
# Shapes and branches, with the extremes of the numbers among them. (task, what differs from TINY)
COMBINATIONS = [
    (BANDIT, {}),
    (
        BANDIT,
        {"slow_rl.max_kl": math.inf, "objective.entropy_coefficient": 1e6, "objective.entropy_schedule": "linear"},
    ),
    (
        BANDIT,
        {
            "slow_rl.max_kl": 1e-30,
            "objective.entropy_coefficient": 1e-30,
            "objective.entropy_schedule": "cosine",
            "network.cell": "lstm",
        },
    ),
    (
        BANDIT,
        {
            "slow_rl.max_kl": 1e6,
            "optimiser.norm_clip": 1e-30,
            "optimiser.schedule": "linear",
            "network.time_input": True,
        },
    ),
    (BANDIT, {"optimiser.norm_clip": 1e30, "optimiser.name": "rmsprop", "optimiser.schedule": "cosine"}),
    (
        BANDIT,
        {
            "objective.task_inference_coefficient": 1e6,
            "objective.expected_rewards": True,
            "objective.normalise_advantages": False,
        },
    ),
    (
        BANDIT,
        {
            "objective.task_inference_coefficient": 1e-30,
            "baseline.sees_task": True,
            "objective.normalise_returns": False,
        },
    ),
    (
        BANDIT,
        {
            "network.shared_trunk": True,
            "network.activation": "tanh",
            "network.weight_norm": False,
            "network.memory_horizon": 1000,
        },
    ),
    (BANDIT, {"baseline.warmup_iterations": 1, "slow_rl.minibatch_trials": 1000, "batch.size": 15, "network.units": 1}),
    (BANDIT, {"baseline.warmup_iterations": 2**31 - 1, "iterations": 2**31 - 1, "network.memory_horizon": 2**31 - 1}),
    (BANDIT, {"slow_rl": "trpo", "trpo.cg_iters": 2}),
    (
        BANDIT,
        {
            "slow_rl": "trpo",
            "trpo.cg_iters": 2,
            "trpo.steps": 2,
            "slow_rl.max_kl": 1e-30,
            "slow_rl.max_kl_schedule": "cosine",
        },
    ),
    (BANDIT, {"slow_rl.max_kl": 1e6, "slow_rl.max_kl_schedule": "linear"}),
    (BANDIT, {"slow_rl": "trpo", "network.shared_trunk": True, "trpo.fisher_fraction": 1e-30, "trpo.cg_iters": 1}),
    (
        BANDIT,
        {
            "slow_rl": "trpo",
            "trpo.cg_iters": 2,
            "network.cell": "lstm",
            "objective.entropy_coefficient": 1e6,
            "objective.normalise_advantages": False,
        },
    ),
    (
        BANDIT,
        {
            "slow_rl": "a2c",
            "network.shared_trunk": True,
            "network.cell": "lstm",
            "optimiser.name": "rmsprop",
            "network.time_input": True,
        },
    ),
    (
        BANDIT,
        {
            "slow_rl": "a2c",
            "objective.normalise_returns": False,
            "objective.normalise_advantages": False,
            "network.matmul_precision": "bfloat16",
        },
    ),
    (BANDIT, IMITATION),
    (BANDIT, {**IMITATION, "imitation.temperature": 1e-6, "network.shared_trunk": True}),
    (BANDIT, {**IMITATION, "imitation.temperature": 1e6, "imitation.teacher_acts": False}),
    (
        MDP,
        {
            "objective.task_inference_coefficient": 1.0,
            "slow_rl.max_kl": math.inf,
            "network.matmul_precision": "float32",
        },
    ),
    (MDP, {"slow_rl": "trpo", "trpo.cg_iters": 2, "baseline.sees_task": True, "trial.first_step_flag": 1.0}),
    (
        MDP,
        {
            "network.learned_initial_state": True,
            "network.episodic_units": 0.5,
            "network.cell": "layer_norm_gru",
            "network.units": 1,
        },
    ),
    (MDP, {"batch.trials_per_task": 2, "batch.size": 24}),
    (
        MDP,
        {
            "network.learned_initial_state": True,
            "network.episodic_units": 1e-30,
            "network.cell": "lstm",
            "slow_rl": "trpo",
            "trpo.cg_iters": 2,
        },
    ),
]
# Numbers on which Python branches, or a shape depends: as the combinations have them.
BRANCHED_ON = {"max_kl", "entropy_coefficient", "task_inference_coefficient", "norm_clip", "fisher_fraction"}
BRANCHED_ON |= {"temperature", "episodic_units"}
NUMBERS = [0.0, -0.0, 5e-324, 1e-45, 1e-30, 1e-6, 0.01, 0.5, 0.999, 1.0, 1.001, 10.0, 1e6, 1e7, 1e30, 3e38, 1e39, 1e308]
NUMBERS += [math.nan, math.inf, -math.inf, -1.0, -1e-30]
# Of a kind that the field is not, or beyond what any integer here may be.
JUNK = {
    int: [-1, -(2**63), 2**31, 2**63, 10**400, True, 2.0, math.nan, "2", None, [2]],
    float: ["0.1", None, True, 10**400, -(10**400), [0.5], 1j],
    str: ["", "TRPO", "adam ", "nonesuch", 3, None, ["adam"]],
    bool: [None, 1, 0.0, "true"],
}


def is_valid(name, value):
    """A teacher may have any name: who has none of that name says so, not its settings."""
    return name == "imitation.teacher" and isinstance(value, str)


@cache
def bound(number: int):
    """(task, config, teacher) of a combination."""
    name, changes = COMBINATIONS[number]
    task, config = parse_task(name), TINY.replace(changes)
    gives_values = getattr(config.slow_rl, "temperature", 0.0) > 0
    return task, config, TUTOR if gives_values else teacher_of(task, config)


def arguments_of(config):
    """Names of the numbers that enter a config's program as arguments."""
    return [n for n, v in config.flat().items() if type(v) is float and n.rpartition(".")[2] not in BRANCHED_ON]


def junk_of(config):
    """(setting, value that it cannot have), ..."""
    pairs = ((name, value) for name, known in config.flat().items() for value in JUNK[type(known)])
    return [pair for pair in pairs if not is_valid(*pair)]


# A teacher that gives values to both arms.
TUTOR = Agent(lambda key: (), lambda key, state, obs: (state, jnp.int32(0), jnp.array([0.3, 0.7])))


def two_iterations(number, arguments, key):
    """What `train` does for two iterations, with some of the config's numbers as arguments of the program."""
    task, config, teacher = bound(number)
    config = config.replace(arguments)
    learner = Learner(task.env, config, teacher)
    return learner.train_chunk(init_train_state(learner.networks, config, learner.num_trials, key), 2)[1]


compiled = jax.jit(two_iterations, static_argnums=0)


@st.composite
def draws(draw):
    """A combination, numbers to change in it, and perhaps one value of a wrong kind."""
    number = draw(st.sampled_from(range(len(COMBINATIONS))))
    config = bound(number)[1]
    numbers = st.dictionaries(st.sampled_from(arguments_of(config)), st.sampled_from(NUMBERS) | st.floats(), max_size=4)
    junk = st.none() | st.none() | st.sampled_from(junk_of(config))
    return number, draw(numbers), draw(st.booleans()), draw(junk), draw(st.integers(0, 2**32 - 1))


def is_allowed(config, name, value):
    """Whether a config takes this value of a setting."""
    try:
        config.replace({name: value})
    except InputError:
        return False
    return True


def outcome_of(drawn):
    """ "trained" or "refused"; anything else fails."""
    number, changes, good, junk, seed = drawn
    task, config, teacher = bound(number)
    if good:  # most sets of four numbers have one that is refused
        changes = {name: value for name, value in changes.items() if is_allowed(config, name, value)}
    if junk is not None:
        changes |= dict([junk])
    try:
        config = config.replace(changes)
        Learner(task.env, config, teacher)
    except InputError as error:
        text = str(error)
        assert any(name in text for name in changes), f"{changes}: {text}"
        return "refused"
    assert junk is None, f"{junk} was not refused"
    arguments = {name: np.float32(config.get(name)) for name in arguments_of(config)}
    metrics = compiled(number, arguments, jax.random.key(seed))
    bad = [name for name, values in metrics._asdict().items() if not np.isfinite(values).all()]
    assert not bad, f"{COMBINATIONS[number]}, {changes}: {bad}"
    assert (np.asarray(metrics.finite) == 1).all(), f"{COMBINATIONS[number]}, {changes}"
    return "trained"


@pytest.mark.faults
def test_drawn_configs_train_or_are_refused():
    seen = Counter()

    @settings(max_examples=NUMBER, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(draws())
    def check(drawn):
        seen[outcome_of(drawn)] += 1

    check()
    print(dict(seen))
    assert seen.total() >= NUMBER
    assert min(seen["trained"], seen["refused"]) > NUMBER // 5


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_every_setting_refuses_what_is_no_value_of_it(number):
    _, config, _ = bound(number)
    for name, value in junk_of(config):
        with pytest.raises(InputError, match=re.escape(name)):
            config.replace({name: value})


@pytest.mark.parametrize("number", range(len(COMBINATIONS)))
def test_every_number_is_finite_in_float32(number):
    """Nor is any accepted that the device would read as infinite, or a limit as 0."""
    _, config, _ = bound(number)
    for name in (name for name, value in config.flat().items() if type(value) is float):
        for value in NUMBERS:
            if not is_allowed(config, name, value) or math.isinf(value):
                continue
            with np.errstate(over="ignore"):
                assert np.isfinite(np.float32(value)), (name, value)


@pytest.mark.faults
@pytest.mark.parametrize("extreme", ["least", "greatest"])
@pytest.mark.parametrize("number", [0, 10, 13])
def test_extremes_as_constants_of_the_program(number, extreme):
    """The same through `train` itself, where a config's numbers are constants: every one at its end of the range."""
    task, config, teacher = bound(number)
    for name in arguments_of(config):
        allowed = [x for x in NUMBERS if is_allowed(config, name, x)]
        config = config.replace({name: (min if extreme == "least" else max)(allowed)})
    _, metrics = train(task.env, config.replace(iterations=2), jax.random.key(0), teacher=teacher)
    for name, values in metrics._asdict().items():
        assert np.isfinite(values).all(), name
    assert (metrics.finite == 1).all()
