"""Many settings in one program: each member is the training of its own settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SMALL_ENV, SMALL_TRPO, continue_to, host_leaves, train_arguments

from rl2jax import preset, train, train_sweep
from rl2jax.cli.main import main
from rl2jax.runs.run import load_state, open_run
from rl2jax.runs.session import read_metrics
from rl2jax.training.learner import Learner
from rl2jax.training.sweeps import SweepLearner, grid, learner_of, parse_settings

PPO = preset("quick", num_episodes=4).replace(
    {
        "iterations": 3,
        "batch.size": 96,
        "network.units": 4,
        "slow_rl.minibatch_trials": 8,
        "objective.task_inference_coefficient": 0.5,
        "slow_rl.max_kl": 0.05,
    }
)
TRPO = SMALL_TRPO.replace(iterations=3)
OTHER = {
    "objective.discount": 0.5,
    "objective.gae_lambda": 0.9,
    "ppo.learning_rate": 1e-3,
    "baseline.learning_rate": 1e-2,
    "optimiser.clip": 0.01,
    "ppo.clip_range": 0.02,
    "ppo.max_kl": 1e-6,
    "objective.entropy_coefficient": 0.3,
    "objective.task_inference_coefficient": 2.0,
}
_SHARED = (
    "objective.discount",
    "objective.gae_lambda",
    "baseline.learning_rate",
    "objective.entropy_coefficient",
)
OF_NATURAL_STEPS = {name: OTHER[name] for name in _SHARED} | {"trpo.max_kl": 1e-6, "trpo.cg_damping": 1.0}


def same_keys(count):
    return jnp.stack([jax.random.key(0)] * count)


def member(states, number):
    return host_leaves(jax.tree.map(lambda leaf: leaf[number], states.params))


def assert_members_are_trainings(config, other):
    """The config, each field by itself with another value, and all at once; first and last held against `train`.

    Every member ends elsewhere than the first, or its setting never reached the program.
    """
    own = {name: config.get(name) for name in other}
    settings = [own, *(own | {name: value} for name, value in other.items()), other]
    values = {name: np.array([of_member[name] for of_member in settings]) for name in other}
    states, metrics = train_sweep(SMALL_ENV, config, same_keys(len(settings)), values)
    assert metrics.mean_return.shape == (len(settings), config.iterations)
    for number in (0, len(settings) - 1):
        alone, _ = train(SMALL_ENV, config.replace(settings[number]), jax.random.key(0))
        for a, b in zip(member(states, number), host_leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    ends = [np.concatenate([leaf.ravel() for leaf in member(states, n)]) for n in range(len(settings))]
    for end, name in zip(ends[1:], other, strict=False):
        assert not np.allclose(end, ends[0], rtol=1e-4, atol=1e-5), name


def test_first_order_members_are_trainings_of_their_own():
    assert_members_are_trainings(PPO, OTHER)


def test_natural_members_are_trainings_of_their_own():
    assert_members_are_trainings(TRPO, OF_NATURAL_STEPS)


def test_every_field_is_swept_above():
    assert {*OTHER, *OF_NATURAL_STEPS} == {*PPO.swept(), *TRPO.swept()}


def test_a_sweep_goes_on_where_it_stopped():
    values = grid({"ppo.learning_rate": [1e-3, 3e-3]})
    schedules = {"optimiser.schedule": "constant", "objective.entropy_schedule": "constant"}
    first, _ = train_sweep(SMALL_ENV, PPO.replace(schedules, iterations=1), same_keys(2), values)
    rest, metrics = train_sweep(SMALL_ENV, PPO.replace(schedules), same_keys(2), values, states=first)
    assert metrics.mean_return.shape == (2, 2)
    assert list(rest.iteration) == [3, 3]
    straight, _ = train_sweep(SMALL_ENV, PPO.replace(schedules), same_keys(2), values)
    for a, b in zip(host_leaves(rest.params), host_leaves(straight.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_grid_has_every_combination():
    values = grid({"objective.discount": [0.9, 1.0], "objective.gae_lambda": [0.1, 0.2, 0.3]})
    np.testing.assert_allclose(values["objective.discount"], [0.9, 0.9, 0.9, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(values["objective.gae_lambda"], [0.1, 0.2, 0.3] * 2)


@pytest.mark.parametrize(
    ("values", "config", "parts"),
    [
        ({"network.units": [4.0, 8.0]}, PPO, ["swept setting", "network.units", "objective.gae_lambda"]),
        ({"objective.gae_lambda": [0.5, 1.5]}, PPO, ["objective.gae_lambda", "1.5", "between 0 and 1"]),
        ({"objective.gae_lambda": [0.5]}, PPO, ["objective.gae_lambda", "(1,)", "(2,)"]),
        ({"ppo.max_kl": [0.1, np.inf]}, PPO, ["ppo.max_kl", "inf", "finite"]),
        ({"ppo.max_kl": [0.1, 0.2]}, PPO.replace({"ppo.max_kl": np.inf}), ["ppo.max_kl", "inf", "finite"]),
        (
            {"objective.task_inference_coefficient": [0.1, 0.2]},
            PPO.replace({"objective.task_inference_coefficient": 0.0}),
            ["> 0 where it is"],
        ),
    ],
)
def test_what_cannot_be_swept_is_named(values, config, parts):
    with pytest.raises(ValueError, match="must be") as error:
        train_sweep(SMALL_ENV, config, same_keys(2), {name: np.array(v) for name, v in values.items()})
    for part in parts:
        assert part in str(error.value)


def command(*arguments):
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code or 0


def test_a_sweep_from_the_command_line_is_a_run_for_each_member(tmp_path, capsys):
    """Of every setting and seed; stopped and resumed, and each what `train` makes of it."""
    options = [
        "--vary",
        "objective.discount=0.5,0.9",
        "--vary",
        "objective.gae_lambda=0.3",
        "--num-seeds",
        2,
        "--out",
        tmp_path / "sweep",
    ]
    assert command(*train_arguments(2), *options) == 0
    assert "2 settings of objective.discount, objective.gae_lambda, seeds 0 to 1" in " ".join(
        capsys.readouterr().err.split()
    )
    names = [
        f"objective.discount={discount},objective.gae_lambda=0.3/seed-{seed}"
        for discount in (0.5, 0.9)
        for seed in (0, 1)
    ]
    for name in names:
        continue_to(tmp_path / "sweep" / name, 3)
    assert command(*train_arguments(None), "--resume", *options) == 0
    shown = " ".join(capsys.readouterr().err.split())
    for name in names:
        run = open_run(tmp_path / "sweep" / name)
        alone, metrics = train(run.task.env, run.config, jax.random.key(run.seed))
        for a, b in zip(host_leaves(load_state(run).params), host_leaves(alone.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        rows = read_metrics(run.folder)
        np.testing.assert_allclose([row["mean_return"] for row in rows], metrics.mean_return, rtol=1e-5)
    for discount, of_setting in (("0.5", names[:2]), ("0.9", names[2:])):
        last = [read_metrics(tmp_path / "sweep" / name)[-1]["mean_return"] for name in of_setting]
        assert f"│ {discount} │ 0.3 │ {np.mean(last):.2f} │ {np.std(last, ddof=1):.2f} │" in shown


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--vary", "network.units=8,16"], ["--vary setting", "network.units", "objective.discount"]),
        (["--vary", "objective.discount"], ["--vary", "setting=value,value"]),
        (["--vary", "objective.discount=0.9,0.90"], ["objective.discount=0.9,0.90", "twice"]),
        (["--vary", "objective.discount=0.9,x"], ["objective.discount", "number", "'x'"]),
        (["--vary", "objective.discount=0.9,2"], ["objective.discount", "2.0"]),
        (["--vary", "objective.discount=0.9", "--vary", "objective.discount=0.8"], ["--vary", "one list"]),
        (
            ["--vary", "objective.discount=0.9", "--set", "objective.discount=0.8"],
            ["--vary objective.discount", "--set objective.discount=0.8"],
        ),
        (["--vary", "objective.discount=0.9", "--distributed"], ["--vary", "one process"]),
        (["--vary", "objective.discount=0.9", "--start", "somewhere"], ["--start", "--vary"]),
        (["--vary", "objective.discount=0.9", "--resume"], ["objective.discount=0.9", "holds no run"]),
    ],
)
def test_sweeps_that_make_no_sense_are_one_line(tmp_path, capsys, options, parts):
    assert command(*train_arguments(2), *options, "--out", tmp_path / "sweep") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.count("rl2jax: error:") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "sweep").exists()


def test_members_that_differ_in_shapes_are_no_sweep():
    learners = [Learner(SMALL_ENV, PPO), Learner(SMALL_ENV, PPO.replace({"objective.discount": 0.5}))]
    assert learner_of(learners, None) == SweepLearner(
        learners[0], 2, None, (("objective.discount", (PPO.objective.discount, 0.5)),)
    )
    with pytest.raises(ValueError, match=r"network\.units"):
        learner_of([learners[0], Learner(SMALL_ENV, PPO.replace({"network.units": 5}))], None)


def test_settings_are_every_combination():
    assert parse_settings([], PPO) == [{}]
    settings = parse_settings(["objective.discount=0.5,0.9", "objective.gae_lambda=0.3,1e-2"], PPO)
    expected = grid({"objective.discount": [0.5, 0.9], "objective.gae_lambda": [0.3, 0.01]})
    assert settings == [{"objective.discount": d, "objective.gae_lambda": g} for d in (0.5, 0.9) for g in (0.3, 0.01)]
    np.testing.assert_allclose([list(setting.values()) for setting in settings], np.stack(list(expected.values()), 1))
