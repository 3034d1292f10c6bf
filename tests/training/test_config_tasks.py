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
from rl2jax.networks.settings import NETWORKS
from rl2jax.settings import InputError, described
from rl2jax.slow_rl.settings import BaselineSettings, Objective, OptimiserSettings
from rl2jax.slow_rl.trpo import TRPO
from rl2jax.training.config import SLOW_RL, TrainConfig, all_sections, parse_overrides
from rl2jax.training.families import make_trial
from rl2jax.training.learner import Learner
from rl2jax.training.presets import PRESETS, preset
from rl2jax.training.update import num_trials_in_batch
from rl2jax.trials.collect import BatchSettings
from rl2jax.trials.trial import TrialSettings

# --- TrainConfig.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trial.num_episodes", 0),
        ("iterations", 0),
        ("batch.size", -5),
        ("batch.trials_per_task", 0),
        ("trpo.cg_iters", 0),
        ("ppo.epochs", 0),
        ("ppo.minibatch_trials", 0),
        ("baseline.epochs", 0),
        ("baseline.minibatch_trials", 0),
        ("network.units", 0),
        ("iterations_per_chunk", 0),
        ("network.memory_horizon", -1),
        ("slow_rl", "a3c"),
        ("optimiser.name", "sgd"),
        ("optimiser.norm_clip", 0.0),
        ("network.cell", "rnn"),
        ("network.shared_trunk", 1),
        ("network.time_input", "yes"),
        ("network.activation", "gelu"),
        ("optimiser.schedule", "step"),
        ("objective.entropy_schedule", "exponential"),
        ("trpo.max_kl_schedule", "step"),
        ("trpo.steps", 0),
        ("objective.discount", 1.5),
        ("objective.discount", -0.1),
        ("objective.discount", math.nan),
        ("objective.gae_lambda", 1.01),
        ("objective.gae_lambda", math.nan),
        ("trial.first_step_flag", 2.0),
        ("network.learned_initial_state", 1),
        ("network.episodic_units", 1.5),
        ("trpo.max_kl", -0.01),
        ("trpo.max_kl", 0.0),
        ("trpo.max_kl", math.nan),
        ("trpo.max_kl", math.inf),  # with trpo, which has no step without it
        ("objective.task_inference_coefficient", 1.0),  # with trpo, whose surrogate has no such term
        ("objective.entropy_coefficient", -1.0),
        ("objective.entropy_coefficient", math.inf),
        ("trpo.fisher_fraction", 0.0),
        ("trpo.fisher_fraction", 1.5),
        ("trpo.cg_damping", -1e-3),
        ("trpo.cg_damping", math.nan),
        ("trpo.backtrack_ratio", 1.0),
        ("trpo.backtrack_ratio", 0.0),
        ("ppo.clip_range", 0.0),
        ("ppo.clip_range", math.inf),
        ("ppo.learning_rate", 0.0),
        ("ppo.learning_rate", math.nan),
        ("baseline.learning_rate", -1e-3),
        ("baseline.loss_coefficient", 0.0),
        ("baseline.loss_coefficient", math.inf),
        ("optimiser.clip", 0.0),
        # Wrong types.
        ("batch.size", 1e5),
        ("batch.size", "many"),
        ("iterations", True),
        ("objective.discount", "0.99"),
        ("objective.discount", False),
        ("slow_rl", 3),
        ("network", None),
        ("network.weight_norm", 1),
        ("trpo.max_kl", None),
    ],
)
def test_bad_settings_name_field_and_value(field, value):
    section = field.partition(".")[0]
    config = TrainConfig().replace({"slow_rl": section} if section in SLOW_RL else {})
    with pytest.raises(InputError, match=rf"^{field} must be .*got {re.escape(repr(value))}( \(did .*)?$"):
        config.replace({field: value})


def test_unknown_settings_are_named():
    with pytest.raises(InputError, match=r"got 'learning_rate' \(did you mean baseline.learning_rate\?\)$"):
        TrainConfig().replace(learning_rate=1e-3)


def test_integers_serve_as_numbers():
    """objective.discount=1 is 1.0, so that equal configs are equal and hash alike."""
    assert TrainConfig().replace({"objective.discount": 1}) == TrainConfig().replace({"objective.discount": 1.0})
    assert isinstance(TrainConfig().replace({"objective.discount": 1}).objective.discount, float)
    assert hash(TrainConfig().replace({"objective.discount": 1})) == hash(
        TrainConfig().replace({"objective.discount": 1.0})
    )


def test_a_batch_smaller_than_one_trial_is_refused():
    """7 episodes of 10 steps do not fit into 69 steps; 70 hold one trial, 139 too."""
    for batch_size, trials in ((70, 1), (139, 1), (140, 2)):
        config = TrainConfig().replace({"trial.num_episodes": 7, "batch.size": batch_size})
        assert num_trials_in_batch(make_trial(TabularMDP(), config), config) == trials
    with pytest.raises(ValueError, match=r"batch.size must be at least one trial \(70 steps.*got 69$"):
        Learner(TabularMDP(), TrainConfig().replace({"trial.num_episodes": 7, "batch.size": 69}))


# --- Overrides from the command line.


def test_overrides_take_the_type_of_the_field():
    texts = [
        "objective.gae_lambda=0.9",
        "batch.size=50_000",
        "slow_rl=ppo",
        "network.weight_norm=False",
        "slow_rl.max_kl=inf",
        "objective.discount=1",
    ]
    expected = {
        "objective.gae_lambda": 0.9,
        "batch.size": 50_000,
        "slow_rl": "ppo",
        "network.weight_norm": False,
        "slow_rl.max_kl": math.inf,
        "objective.discount": 1.0,
    }
    overrides = parse_overrides(texts, TrainConfig())
    assert overrides == expected
    assert {name: type(x) for name, x in overrides.items()} == {name: type(x) for name, x in expected.items()}
    assert parse_overrides([], TrainConfig()) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective.gae_lambda", "^--set must be .*got 'objective.gae_lambda'$"),
        ("objective.gae_lamda=0.9", r"got 'gae_lamda' \(did you mean gae_lambda\?\)$"),
        ("gae_lambda=0.9", r"got 'gae_lambda' \(did you mean objective.gae_lambda\?\)$"),
        ("=3", "got ''$"),
        ("batch.size=1e5", "^batch.size must be an integer, got '1e5'$"),
        ("batch.size=", "^batch.size must be an integer, got ''$"),
        ("objective.discount=high", "^objective.discount must be a number, got 'high'$"),
        ("network.weight_norm=1", "^network.weight_norm must be true or false, got '1'$"),
        ("ppo.clip_range=0.2", "^ppo.clip_range is a setting of slow_rl ppo, and slow_rl is trpo: add slow_rl=ppo$"),
        ("network.initial_bonus=1.0", "^setting of network recurrent must be one of .*got 'initial_bonus'$"),
    ],
)
def test_bad_overrides_name_setting_and_value(text, message):
    with pytest.raises(InputError, match=message):
        parse_overrides([text], TrainConfig())


VALUES = {
    int: st.integers(2, 10**6),
    float: st.floats(0.01, 0.99),
    bool: st.booleans(),
    str: st.sampled_from(["", "gittins"]),
}


@st.composite
def sections(draw, kind):
    """A section of a kind whose every field is drawn."""
    drawn = {}
    for field in dataclasses.fields(kind):
        choices = field.metadata["bounds"].choices if field.metadata else ()
        drawn[field.name] = draw(st.sampled_from(choices) if choices else VALUES[type(field.default)])
    return kind(**drawn)


@st.composite
def configs(draw):
    """Configs whose every setting is drawn; what another setting forbids is then switched off."""
    algorithm, network = draw(st.sampled_from(list(SLOW_RL.values()))), draw(st.sampled_from(list(NETWORKS.values())))
    objective, baseline = draw(sections(Objective)), draw(sections(BaselineSettings))
    if algorithm.name == "trpo":
        objective = objective.changed(task_inference_coefficient=0.0)
    batch = BatchSettings(draw(VALUES[int]), trials_per_task=draw(VALUES[int]))
    if network.name == "recurrent" and not baseline.sees_task:
        batch = draw(st.sampled_from([batch, BatchSettings(batch.size, lane_steps=draw(VALUES[int]))]))
    return TrainConfig(
        draw(VALUES[int]),
        draw(VALUES[int]),
        trial=draw(sections(TrialSettings)),
        batch=batch,
        objective=objective,
        slow_rl=draw(sections(algorithm)),
        network=draw(sections(network)),
        optimiser=draw(sections(OptimiserSettings)),
        baseline=baseline,
    )


def test_every_choice_is_drawn():
    """The tests below are of no algorithm or network that is never drawn."""
    drawn = {"slow_rl": set(), "network": set()}

    @hypothesis.settings(max_examples=100)
    @hypothesis.given(configs())
    def draw(config):
        for name, choices in drawn.items():
            choices.add(config.get(name))

    draw()
    assert drawn == {"slow_rl": set(SLOW_RL), "network": set(NETWORKS)}


@hypothesis.given(configs())
def test_every_setting_can_be_overridden_by_its_text(config):
    """parse_overrides inverts str() for every setting."""
    texts = [f"{name}={value}" for name, value in config.flat().items()]
    assert TrainConfig().replace(parse_overrides(texts, TrainConfig())) == config


@hypothesis.given(configs())
def test_json_round_trip(config):
    text = json.dumps(config.to_json(), allow_nan=False)
    assert TrainConfig.from_json(json.loads(text)) == config


@hypothesis.given(configs())
def test_a_setting_is_found_by_its_name(config):
    assert all(config.get(name) == value for name, value in config.flat().items())


def test_a_choice_by_name_keeps_what_both_have_where_it_is_allowed():
    config = TrainConfig().replace({"slow_rl": "ppo", "ppo.max_kl": 0.02, "ppo.epochs": 3})
    assert config.replace({"slow_rl": "trpo"}).slow_rl == TRPO(max_kl=0.02)
    assert config.replace({"slow_rl": "imitation"}).slow_rl.epochs == 3
    unlimited = config.replace({"ppo.max_kl": math.inf})
    assert unlimited.replace({"slow_rl": "trpo"}).slow_rl == TRPO()  # it must have a limit: its default
    assert config.replace({"slow_rl": "trpo", "trpo.max_kl": 0.3}).slow_rl.max_kl == 0.3


def test_every_section_is_described():
    """Each setting has a meaning, from its docstring; a choice without settings of its own would be an empty table."""
    for name, section in all_sections().items():
        rows = described(section)
        assert rows, name
        assert all(meaning for *_, meaning in rows), (name, rows)


def test_json_round_trip_of_infinity():
    config = TrainConfig().replace({"slow_rl": "ppo", "slow_rl.max_kl": math.inf})
    text = json.dumps(config.to_json(), allow_nan=False)
    assert '"ppo.max_kl": "inf"' in text
    assert TrainConfig.from_json(json.loads(text)) == config


def test_json_of_an_older_version_takes_defaults():
    assert TrainConfig.from_json({"objective.gae_lambda": 0.9}) == TrainConfig().replace({"objective.gae_lambda": 0.9})


# --- Presets.


def test_the_paper_preset_is_the_papers_table():
    """Duan et al. 2016, appendix A.1 and A.2: bandits 1000 iterations, MDPs 10000, all else alike."""
    paper = {
        "slow_rl": "trpo",
        "objective.discount": 0.99,
        "objective.gae_lambda": 0.3,
        "trpo.max_kl": 0.01,
        "batch.size": 250_000,
        "network.units": 256,
        "network.activation": "relu",
        "network.weight_norm": True,
        "trpo.fisher_fraction": 1.0,
        "trial.first_step_flag": 0.0,
        "network.memory_horizon": 0,
        "objective.entropy_coefficient": 0.0,
        "objective.task_inference_coefficient": 0.0,
        "optimiser.schedule": "constant",
    }
    for kind, iterations in (("bandit", 1000), ("mdp", 10_000)):
        settings = (preset("paper", kind, 25)).flat()
        assert {name: settings[name] for name in paper} == paper
        assert (settings["iterations"], settings["trial.num_episodes"]) == (iterations, 25)


def test_the_first_order_preset_is_the_protocol():
    """spec/protocol.md: clip 0.1, Adam 1e-3, elementwise clip 40, 5 epochs of 128 trials, mean KL 0.01."""
    protocol = {
        "slow_rl": "ppo",
        "ppo.clip_range": 0.1,
        "ppo.learning_rate": 1e-3,
        "optimiser.clip": 40.0,
        "ppo.epochs": 5,
        "ppo.minibatch_trials": 128,
        "ppo.max_kl": 0.01,
        "baseline.epochs": 5,
        "baseline.learning_rate": 1e-3,
        "baseline.minibatch_trials": 128,
    }
    settings = (preset("paper-first-order", "mdp", 10)).flat()
    assert {name: settings[name] for name in protocol} == protocol
    assert settings["iterations"] == 10_000
    paper = preset("paper", "mdp", 10)
    assert preset("paper-first-order", "mdp", 10) == paper.replace({"slow_rl": "ppo"})


def test_the_wang_preset_is_their_agent():
    """spec/deep_meta_rl.md: A2C, LSTM-48 with the time, value weight 0.05, entropy 1 to 0; 20 trials of any length."""
    wang = {
        "slow_rl": "a2c",
        "network.cell": "lstm",
        "network.units": 48,
        "network.activation": "tanh",
        "network.shared_trunk": True,
        "network.time_input": True,
        "objective.gae_lambda": 1.0,
        "baseline.loss_coefficient": 0.05,
        "objective.entropy_coefficient": 1.0,
        "objective.entropy_schedule": "linear",
        "optimiser.name": "rmsprop",
        "objective.normalise_advantages": False,
        "objective.normalise_returns": False,
    }
    settings = (preset("wang", "bandit", 100)).flat()
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
