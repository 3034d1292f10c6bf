"""Settings and names of tasks: the paper's numbers, what is refused, and how the refusal reads."""

import dataclasses
import json
import math
import re

import hypothesis
import hypothesis.strategies as st
import pytest

from rl2jax.envs import BernoulliBandit, TabularMDP
from rl2jax.envs.classic_control import random_cartpole, random_pendulum
from rl2jax.envs.names import parse_task
from rl2jax.training.config import _CHOICES, TrainConfig, field_names, parse_overrides
from rl2jax.training.families import make_trial
from rl2jax.training.learner import Learner
from rl2jax.training.presets import PRESETS, preset
from rl2jax.training.update import num_trials_in_batch

# --- TrainConfig.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_episodes", 0),
        ("iterations", 0),
        ("batch_size", -5),
        ("trials_per_task", 0),
        ("cg_iters", 0),
        ("policy_epochs", 0),
        ("policy_minibatch_trials", 0),
        ("baseline_epochs", 0),
        ("baseline_minibatch_trials", 0),
        ("gru_units", 0),
        ("iterations_per_chunk", 0),
        ("memory_horizon", -1),
        ("algorithm", "a3c"),
        ("optimiser", "sgd"),
        ("gradient_norm_clip", 0.0),
        ("cell", "rnn"),
        ("shared_trunk", 1),
        ("time_input", "yes"),
        ("activation", "gelu"),
        ("learning_rate_schedule", "step"),
        ("entropy_schedule", "exponential"),
        ("max_kl_schedule", "step"),
        ("natural_steps", 0),
        ("discount", 1.5),
        ("discount", -0.1),
        ("discount", math.nan),
        ("gae_lambda", 1.01),
        ("gae_lambda", math.nan),
        ("first_step_flag", 2.0),
        ("learned_initial_state", 1),
        ("episodic_units", 1.5),
        ("max_kl", -0.01),
        ("max_kl", 0.0),
        ("max_kl", math.nan),
        ("max_kl", math.inf),  # with trpo, which has no step without it
        ("task_inference_coefficient", 1.0),  # with trpo, whose surrogate has no such term
        ("entropy_coefficient", -1.0),
        ("entropy_coefficient", math.inf),
        ("fisher_fraction", 0.0),
        ("fisher_fraction", 1.5),
        ("cg_damping", -1e-3),
        ("cg_damping", math.nan),
        ("backtrack_ratio", 1.0),
        ("backtrack_ratio", 0.0),
        ("clip_range", 0.0),
        ("clip_range", math.inf),
        ("policy_learning_rate", 0.0),
        ("policy_learning_rate", math.nan),
        ("baseline_learning_rate", -1e-3),
        ("baseline_loss_coefficient", 0.0),
        ("baseline_loss_coefficient", math.inf),
        ("gradient_clip", 0.0),
        # Wrong types.
        ("batch_size", 1e5),
        ("batch_size", "many"),
        ("iterations", True),
        ("discount", "0.99"),
        ("discount", False),
        ("algorithm", 3),
        ("weight_norm", 1),
        ("max_kl", None),
    ],
)
def test_bad_settings_name_field_and_value(field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be .*got {re.escape(repr(value))}$"):
        TrainConfig(**{field: value})


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match=r"one of .*\bpolicy_learning_rate\b.*, got 'learning_rate'$"):
        TrainConfig().replace(learning_rate=1e-3)


def test_every_field_is_documented():
    """A newcomer finds each setting explained in the class's docstring, and no other."""
    documented = re.findall(r"^      (\w+): ", TrainConfig.__doc__, re.MULTILINE)
    assert documented == field_names()


def test_integers_serve_as_numbers():
    """discount=1 is 1.0, so that equal configs are equal and hash alike."""
    assert TrainConfig(discount=1) == TrainConfig(discount=1.0)
    assert isinstance(TrainConfig(discount=1).discount, float)
    assert hash(TrainConfig(discount=1)) == hash(TrainConfig(discount=1.0))


def test_a_batch_smaller_than_one_trial_is_refused():
    """7 episodes of 10 steps do not fit into 69 steps; 70 hold one trial, 139 too."""
    for batch_size, trials in ((70, 1), (139, 1), (140, 2)):
        config = TrainConfig(num_episodes=7, batch_size=batch_size)
        assert num_trials_in_batch(make_trial(TabularMDP(), config), config) == trials
    with pytest.raises(ValueError, match=r"batch_size must be at least one trial \(70 steps.*got 69$"):
        Learner(TabularMDP(), TrainConfig(num_episodes=7, batch_size=69))


# --- Overrides from the command line.


def test_overrides_take_the_type_of_the_field():
    texts = ["gae_lambda=0.9", "batch_size=50_000", "algorithm=ppo", "weight_norm=False", "max_kl=inf", "discount=1"]
    expected = {
        "gae_lambda": 0.9,
        "batch_size": 50_000,
        "algorithm": "ppo",
        "weight_norm": False,
        "max_kl": math.inf,
        "discount": 1.0,
    }
    overrides = parse_overrides(texts)
    assert overrides == expected
    assert {name: type(x) for name, x in overrides.items()} == {name: type(x) for name, x in expected.items()}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("gae_lambda", "--set", "'gae_lambda'"),
        ("gae_lamda=0.9", "--set field", "'gae_lamda'"),
        ("=3", "--set field", "''"),
        ("batch_size=1e5", "batch_size", "'1e5'"),
        ("batch_size=", "batch_size", "''"),
        ("discount=high", "discount", "'high'"),
        ("weight_norm=1", "weight_norm", "'1'"),
    ],
)
def test_bad_overrides_name_field_and_value(text, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be .*got {value}$"):
        parse_overrides([text])


VALUES = {
    int: st.integers(1, 10**6),
    float: st.floats(0.01, 0.99),
    bool: st.booleans(),
    str: st.sampled_from(["", "gittins"]),
}


@st.composite
def configs(draw):
    """Configs whose every field is drawn; what another setting forbids is then switched off."""
    settings = {
        field.name: draw(
            st.sampled_from(_CHOICES[field.name]) if field.name in _CHOICES else VALUES[type(field.default)]
        )
        for field in dataclasses.fields(TrainConfig)
    }
    if settings["network"] != "recurrent" or settings["baseline_sees_task"]:
        settings["lane_steps"] = 0
    if settings["lane_steps"]:
        settings |= {"lane_steps": max(2, settings["lane_steps"]), "trials_per_task": 1}
    if settings["network"] != "recurrent":
        settings |= {"learned_initial_state": False, "episodic_units": 0.0}
    if settings["algorithm"] == "trpo":
        settings["task_inference_coefficient"] = 0.0
    if settings["algorithm"] != "imitation":
        settings["teacher"] = ""
    return TrainConfig(**settings)


def test_every_choice_is_drawn():
    """The tests below are of no algorithm that is never drawn."""
    drawn = {name: set() for name in _CHOICES}

    @hypothesis.settings(max_examples=100)
    @hypothesis.given(configs())
    def draw(config):
        for name, choices in drawn.items():
            choices.add(getattr(config, name))

    draw()
    assert drawn == {name: set(allowed) for name, allowed in _CHOICES.items()}


@hypothesis.given(configs())
def test_every_setting_can_be_overridden_by_its_text(config):
    """parse_overrides inverts str() for every field."""
    texts = [f"{name}={value}" for name, value in dataclasses.asdict(config).items()]
    assert TrainConfig(**parse_overrides(texts)) == config


@hypothesis.given(configs())
def test_json_round_trip(config):
    text = json.dumps(config.to_json(), allow_nan=False)
    assert TrainConfig.from_json(json.loads(text)) == config


def test_json_round_trip_of_infinity():
    config = TrainConfig(algorithm="ppo", max_kl=math.inf)
    text = json.dumps(config.to_json(), allow_nan=False)
    assert '"max_kl": "inf"' in text
    assert TrainConfig.from_json(json.loads(text)) == config


def test_json_of_an_older_version_takes_defaults():
    assert TrainConfig.from_json({"gae_lambda": 0.9}) == TrainConfig(gae_lambda=0.9)


# --- Presets.


def test_the_paper_preset_is_the_papers_table():
    """Duan et al. 2016, appendix A.1 and A.2: bandits 1000 iterations, MDPs 10000, all else alike."""
    paper = {
        "algorithm": "trpo",
        "discount": 0.99,
        "gae_lambda": 0.3,
        "max_kl": 0.01,
        "batch_size": 250_000,
        "gru_units": 256,
        "activation": "relu",
        "weight_norm": True,
        "fisher_fraction": 1.0,
        "first_step_flag": 0.0,
        "memory_horizon": 0,
        "entropy_coefficient": 0.0,
        "task_inference_coefficient": 0.0,
        "learning_rate_schedule": "constant",
    }
    for kind, iterations in (("bandit", 1000), ("mdp", 10_000)):
        settings = dataclasses.asdict(preset("paper", kind, 25))
        assert {name: settings[name] for name in paper} == paper
        assert (settings["iterations"], settings["num_episodes"]) == (iterations, 25)


def test_the_first_order_preset_is_the_protocol():
    """spec/protocol.md: clip 0.1, Adam 1e-3, elementwise clip 40, 5 epochs of 128 trials, mean KL 0.01."""
    protocol = {
        "algorithm": "ppo",
        "clip_range": 0.1,
        "policy_learning_rate": 1e-3,
        "gradient_clip": 40.0,
        "policy_epochs": 5,
        "policy_minibatch_trials": 128,
        "max_kl": 0.01,
        "baseline_epochs": 5,
        "baseline_learning_rate": 1e-3,
        "baseline_minibatch_trials": 128,
    }
    settings = dataclasses.asdict(preset("paper-first-order", "mdp", 10))
    assert {name: settings[name] for name in protocol} == protocol
    assert settings["iterations"] == 10_000
    differing = {name for name, x in settings.items() if x != getattr(preset("paper", "mdp", 10), name)}
    assert differing == {"algorithm"}


def test_the_wang_preset_is_their_agent():
    """spec/deep_meta_rl.md: A2C, LSTM-48 with the time, value weight 0.05, entropy 1 to 0; 20 trials of any length."""
    wang = {
        "algorithm": "a2c",
        "cell": "lstm",
        "gru_units": 48,
        "activation": "tanh",
        "shared_trunk": True,
        "time_input": True,
        "gae_lambda": 1.0,
        "baseline_loss_coefficient": 0.05,
        "entropy_coefficient": 1.0,
        "entropy_schedule": "linear",
        "optimiser": "rmsprop",
        "normalise_advantages": False,
        "normalise_returns": False,
    }
    settings = dataclasses.asdict(preset("wang", "bandit", 100))
    assert {name: settings[name] for name in wang} == wang
    assert Learner(BernoulliBandit(2), preset("wang", "bandit", 100)).num_trials == 20
    assert Learner(TabularMDP(), preset("wang", "mdp", 3, 10)).num_trials == 20


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_tasks_of_the_tables(name):
    """One trial of Table 1's and Table 2's largest tasks fits into every preset's batch."""
    assert Learner(BernoulliBandit(50), preset(name, "bandit", 500)).num_trials >= 10
    assert Learner(TabularMDP(), preset(name, "mdp", 100, 10)).num_trials >= 10


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match=r"preset must be one of paper, .*got 'papper'$"):
        preset("papper")


# --- Names of tasks.


@pytest.mark.parametrize(
    ("text", "name", "env", "num_episodes"),
    [
        ("bandit:k=5,n=10", "bandit:k=5,n=10", BernoulliBandit(5), 10),
        ("bandit:n=100,k=50", "bandit:k=50,n=100", BernoulliBandit(50), 100),
        ("bandit", "bandit:k=5,n=10", BernoulliBandit(5), 10),
        ("mdp:n=25", "mdp:s=10,a=5,t=10,n=25", TabularMDP(10, 5, 10), 25),
        ("mdp:s=3,a=2,t=4,n=1", "mdp:s=3,a=2,t=4,n=1", TabularMDP(3, 2, 4), 1),
        ("cartpole:t=50", "cartpole:t=50,n=4", random_cartpole, 4),
        ("pendulum:n=2,t=30", "pendulum:t=30,n=2", random_pendulum, 2),
    ],
)
def test_task_names(text, name, env, num_episodes):
    """Settings in any order, defaults spelled out, and the canonical name parses to an equal task."""
    if callable(env):
        env = env(int(re.search(r"t=(\d+)", text)[1]))
    task = parse_task(text)
    assert (task.name, task.kind.name, task.env, task.num_episodes) == (name, text.split(":")[0], env, num_episodes)
    assert parse_task(task.name) == task


@hypothesis.given(st.integers(1, 50), st.integers(1, 500))
def test_task_names_round_trip(k, n):
    task = parse_task(f"bandit:k={k},n={n}")
    assert (task.env, task.num_episodes) == (BernoulliBandit(k), n)
    assert parse_task(task.name) == task


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bandits:", "unknown task 'bandits:'"),
        ("bandit:k=0", r"num_arms \(k\) must be .*got 0"),
        ("bandit:n=0", r"num_episodes \(n\) must be .*got 0"),
        ("bandit:k=five", "k must be an integer, got 'five'"),
        ("bandit:k", "k must be an integer, got ''"),
        ("bandit:arms=5", "unknown setting 'arms'; allowed are k=, alpha=, beta=, good=, j=, n="),
        ("mdp:k=5", "unknown setting 'k'; allowed are s=, a=, t=, n="),
        ("mdp:t=-1", r"episode_length \(t\) must be .*got -1"),
        ("cartpole:t=0", "episode_length must be .*got 0"),
        ("rocket", "unknown task 'rocket'.*bandit, mdp, maze, cartpole, pendulum"),
        ("", "unknown task ''"),
        ("no_such_module:Env", "unknown task 'no_such_module:Env'"),
        ("rl2jax.envs:NoSuchEnv", "rl2jax.envs has no 'NoSuchEnv'"),
        ("rl2jax.envs:BanditParams.x", "rl2jax.envs has no"),
        ("math:pi", "must be .*TaskDistribution, got 3.14"),
        ("rl2jax.envs:TabularMDP,n=x", "n must be an integer, got 'x'"),
        ("rl2jax.envs:TabularMDP,k=3", "unknown setting 'k'; allowed are n="),
        ("rl2jax.envs:TabularMDP,n=0", r"num_episodes \(n\) must be .*got 0"),
    ],
)
def test_bad_task_names_say_why(text, said):
    with pytest.raises(ValueError, match=said):
        parse_task(text)


@pytest.mark.parametrize(
    "text",
    [
        "rl2jax.envs:BernoulliBandit",
        "math:sqrt",
        ".relative:env",
        ":env",
    ],
)
def test_names_that_cannot_be_loaded_are_value_errors(text):
    """An object that cannot be called without arguments, a name that is no module's: said, not a traceback."""
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_task(text)


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    """A module of the user's in the current directory."""
    (tmp_path / "my_tasks_of_a_test.py").write_text(
        "from rl2jax.envs import BernoulliBandit\n"
        "easy = BernoulliBandit(2)\n"
        "def hard():\n"
        "    return BernoulliBandit(7)\n"
    )
    monkeypatch.chdir(tmp_path)
    return "my_tasks_of_a_test"


@pytest.mark.parametrize(
    ("rest", "env", "n"),
    [("easy", BernoulliBandit(2), 2), ("easy,n=9", BernoulliBandit(2), 9), ("hard,n=3", BernoulliBandit(7), 3)],
)
def test_a_task_of_the_users_own(users_module, rest, env, n):
    """An instance, or a function that makes one, from a module in the current directory."""
    task = parse_task(f"{users_module}:{rest}")
    assert (task.name, task.env, task.num_episodes) == (f"{users_module}:{rest.split(',')[0]},n={n}", env, n)
    assert parse_task(task.name) == task
