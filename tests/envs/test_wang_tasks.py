"""Tasks of Wang et al. 2016 and 2018: what is drawn, what a step does, and what they are called."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl2jax.envs import (
    DependentBandit,
    GridNavigation,
    Harlow,
    InformativeBandit,
    RestlessBandit,
    TwoStep,
)
from rl2jax.envs.harlow import FIXATE, LEFT, RIGHT, HarlowState
from rl2jax.envs.names import parse_task
from rl2jax.envs.two_step import CUE, FIRST, SECOND_A, SECOND_B
from rl2jax.training.presets import preset_for
from rl2jax.trials.trial import Trial

pytestmark = pytest.mark.usefixtures("strict_ranks")

P_VALUE = 1e-3
ALL = [
    DependentBandit(),
    InformativeBandit(),
    RestlessBandit(5),
    TwoStep(3, fixation=True),
    Harlow(2),
    Harlow(2, observation="image"),
    GridNavigation(episode_length=9),
    GridNavigation("open", 4, 9, 1),
]


@functools.cache
def drawn(env, count=2000, seed=0):
    """Parameters of many tasks, numpy leaves [count, ...]."""
    keys = jax.random.split(jax.random.key(seed), count)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(env.sample_params))(keys))


def walk(env, actions, params=None, seed=0):
    """Observations (with the first), rewards and flags of an episode with these actions."""
    key_task, key_reset, *keys = jax.random.split(jax.random.key(seed), 2 + len(actions))
    params = env.sample_params(key_task) if params is None else params
    obs, state = env.reset_env(key_reset, params)
    seen, rewards, ends = [obs], [], []
    step = jax.jit(env.step_env)
    for key, action in zip(keys, actions, strict=True):
        expected = env.expected_reward(state, jnp.int32(action), params)
        obs, state, reward, ended, _ = step(key, state, jnp.int32(action), params)
        assert expected.shape == reward.shape == ()
        seen, rewards, ends = [*seen, obs], [*rewards, float(reward)], [*ends, bool(ended)]
    return np.stack(seen), np.array(rewards), ends


@pytest.mark.parametrize("env", ALL, ids=lambda env: type(env).__name__)
def test_spaces_and_lengths_are_kept(env):
    """Observations are of their space, and an episode of any actions ends when it should, whatever starts next."""
    trial = Trial(env, 2)

    @jax.jit
    def play(key):
        params = env.sample_params(key)
        state, first = trial.reset(key, params)

        def step(state, key):
            action = env.action_space(None).sample(key)
            state, trial_obs, reward, episode_done, trial_done = trial.step(key, state, action, params)
            return state, (trial_obs.obs, reward, episode_done, trial_done)

        return (
            first.obs,
            env.task_features(params),
            jax.lax.scan(step, state, jax.random.split(key, trial.num_steps))[1],
        )

    first, features, (obs, reward, episode_done, trial_done) = jax.tree.map(np.asarray, play(jax.random.key(3)))
    space = env.observation_space(None)
    assert first.shape == obs.shape[1:] == space.shape
    assert first.dtype == obs.dtype == space.dtype
    if hasattr(space, "low"):
        assert (space.low <= obs).all()
        assert (obs <= space.high).all()
    else:
        assert (obs < space.n).all()
    assert env.num_actions == env.action_space(None).n
    assert np.isfinite(reward).all()
    assert features.ndim == 1
    assert features.dtype == np.float32
    assert trial_done[-1]
    if not isinstance(env, Harlow):  # which can be done sooner
        np.testing.assert_array_equal(np.flatnonzero(episode_done) + 1, env.episode_length * np.arange(1, 3))


@pytest.mark.parametrize("env", ALL, ids=lambda env: type(env).__name__)
def test_equal_tasks_are_equal(env):
    assert env == type(env)(**{name: getattr(env, name) for name in env.__dataclass_fields__})
    assert hash(env) == hash(type(env)(**{name: getattr(env, name) for name in env.__dataclass_fields__}))


# --- Bandits.


def test_dependent_arms_mirror_each_other():
    uniform = drawn(DependentBandit()).probs
    np.testing.assert_allclose(uniform.sum(1), 1.0, rtol=1e-6)
    assert scipy.stats.kstest(uniform[:, 0], "uniform").pvalue > P_VALUE
    for percent in (90, 75, 60):
        probs = drawn(DependentBandit(percent)).probs
        np.testing.assert_allclose(np.unique(np.round(probs, 6)), [1 - percent / 100, percent / 100], atol=1e-6)
        assert abs((probs[:, 0] > 0.5).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_informative_arm_names_the_target():
    """Wang et al. 2016, section 3.1.3: 5, 1, and a tenth of the target's index; the observation is the reward."""
    env = InformativeBandit()
    assert np.ptp(np.bincount(drawn(env).target, minlength=10)) < 4 * np.sqrt(2 * 200)
    for target in (0, 3, 9):
        obs, rewards, ends = walk(env, [10, target, (target + 1) % 10, 10, target], env.params_of(jnp.int32(target)))
        np.testing.assert_allclose(rewards, [(target + 1) / 10, 5, 1, (target + 1) / 10, 5], rtol=1e-6)
        np.testing.assert_array_equal(obs.sum(1), [0, 1, 1, 1, 1, 1])
        np.testing.assert_array_equal(obs[1:].argmax(1), [target, 10, 9, target, 10])
        assert ends == [False] * 4 + [True]
    np.testing.assert_allclose(drawn(env).arm_means[:, :10].mean(), 1.4)


def test_restless_walk_has_its_volatility():
    """Steps far from the borders are Gaussian; half of the tasks are of the high kind; the walk stays in [0, 1]."""
    params = drawn(RestlessBandit(50, low_percent=1, high_percent=5))
    path = params.arm_means[..., 0]
    np.testing.assert_allclose(params.arm_means.sum(-1), 1.0, rtol=1e-5)
    assert path.min() >= 0.0
    assert path.max() <= 1.0
    high = params.is_high[:, 0]
    assert (params.is_high == high[:, None]).all()
    assert abs(high.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    steps = np.diff(path, axis=1)
    inside = (path[:, :-1] > 0.25) & (path[:, :-1] < 0.75)
    for these, deviation in ((~high, 0.01), (high, 0.05)):
        found = steps[these][inside[these]]
        assert abs(found.std() / deviation - 1) < 0.03
        assert abs(found.mean()) < 4 * deviation / np.sqrt(len(found))
    assert scipy.stats.kstest(path[:, -1], "uniform").pvalue > P_VALUE  # which a reflected walk leaves as it is


@pytest.mark.parametrize("percent", [None, 80])
def test_restless_jumps(percent):
    params = drawn(RestlessBandit(50, low_percent=2, high_percent=20, jump=True, better_percent=percent))
    path = params.arm_means[..., 0]
    jumps = (np.diff(path, axis=1) != 0).mean(axis=1)
    for these, share in ((~params.is_high[:, 0], 0.02), (params.is_high[:, 0], 0.2)):
        assert abs(jumps[these].mean() - share) < 4 * np.sqrt(share / (49 * these.sum()))
    if percent is None:
        assert scipy.stats.kstest(path[:, 25], "uniform").pvalue > P_VALUE
    else:
        np.testing.assert_allclose(np.unique(np.round(path, 5)), [0.2, 0.8])
        assert abs((path[:, 25] > 0.5).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_restless_blocks_alternate():
    params = drawn(RestlessBandit(10, low_percent=0, high_percent=100, jump=True, better_percent=90, block_length=4))
    block = np.arange(10) // 4 % 2 == 1
    np.testing.assert_array_equal(params.is_high, params.is_high[:, :1] ^ block[None])
    # A jump at every pull of high volatility but the first of the episode, none elsewhere.
    np.testing.assert_array_equal(np.diff(params.arm_means[..., 0], axis=1) != 0, params.is_high[:, 1:])


def test_restless_rewards_follow_the_path():
    """At each pull the success probability of that pull."""
    env = RestlessBandit(6, low_percent=30, high_percent=30)
    params = env.sample_params(jax.random.key(5))
    rewards = jax.jit(
        jax.vmap(
            jax.vmap(
                lambda key, time: env.step_env(key, env.reset_env(key, params)[1].replace(time=time), 1, params)[2],
                (0, None),
            ),
            (None, 0),
        )
    )(jax.random.split(jax.random.key(6), 2000), jnp.arange(6))
    probs = np.asarray(params.arm_means[:, 1])
    assert (np.abs(np.asarray(rewards).mean(1) - probs) < 4 * np.sqrt(probs * (1 - probs) / 2000) + 1e-6).all()


# --- Two-step task.


def test_two_step_by_frequencies():
    """From each state with each action: where it leads and what it pays."""
    env = TwoStep(10, common_percent=75, better_percent=90)
    params = env.sample_params(jax.random.key(0)).replace(better=jnp.ones(10, jnp.int32))  # SECOND_B

    def one(key, start, action):
        state = env.reset_env(key, params)[1].replace(state=start)
        obs, new, reward, _, _ = env.step_env(key, state, action, params)
        return obs, new.decisions, reward, env.expected_reward(state, action, params)

    over = jax.vmap(jax.vmap(jax.vmap(one, (0, None, None)), (None, None, 0)), (None, 0, None))
    obs, decisions, reward, expected = jax.tree.map(
        np.asarray, jax.jit(over)(jax.random.split(jax.random.key(1), 2000), jnp.arange(3), jnp.arange(2))
    )
    error = 4 * np.sqrt(0.25 * 0.75 / 2000)
    assert abs((obs[FIRST, LEFT] == SECOND_A).mean() - 0.75) < error
    assert abs((obs[FIRST, RIGHT] == SECOND_B).mean() - 0.75) < error
    assert (obs[FIRST] > 0).all()
    assert (reward[FIRST] == 0).all()
    assert (obs[1:] == FIRST).all()
    np.testing.assert_array_equal(decisions, np.array([0, 1, 1])[:, None, None] * np.ones((3, 2, 2000)))
    for second, probability in ((SECOND_A, 0.1), (SECOND_B, 0.9)):
        assert (np.abs(reward[second].mean(-1) - probability) < 4 * np.sqrt(0.09 / 2000)).all()
        np.testing.assert_allclose(expected[second], probability, rtol=1e-5)


def test_two_step_roles_stay_or_switch():
    stays = drawn(TwoStep()).better
    assert (stays == stays[:, :1]).all()
    assert abs(stays[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    switches = np.diff(drawn(TwoStep(switch_permille=25)).better, axis=1) != 0
    assert abs(switches.mean() - 0.025) < 4 * np.sqrt(0.025 / switches.size)


def test_two_step_switches_count_decisions_not_steps():
    """An invalid action costs 1, shows the same again and leaves the roles as they are."""
    env = TwoStep(4, common_percent=100, better_percent=100, fixation=True)
    params = env.sample_params(jax.random.key(0)).replace(better=jnp.array([0, 1, 0, 1], jnp.int32))
    cue = FIXATE
    actions = [LEFT, cue, cue, LEFT, cue, RIGHT, cue, RIGHT, LEFT, cue, RIGHT, LEFT]
    obs, rewards, ends = walk(env, actions, params)
    first, a, b = FIRST, SECOND_A, SECOND_B
    np.testing.assert_array_equal(obs, [CUE, CUE, first, first, a, a, CUE, first, b, CUE, first, b, CUE])
    np.testing.assert_array_equal(rewards, [-1, 0, -1, 0, -1, 1, 0, 0, 1, 0, 0, 0])
    assert ends == [False] * 11 + [True]


# --- Harlow.


def test_harlow_pairs_and_sides():
    params = drawn(Harlow(6, num_objects=50))
    assert (params.objects[:, 0] != params.objects[:, 1]).all()
    assert set(params.objects.ravel()) == set(range(50))
    assert abs((params.rewarded_side == RIGHT).mean() - 0.5) < 4 * 0.5 / np.sqrt(12_000)
    np.testing.assert_allclose(np.linalg.norm(params.appearance, axis=-1), 1.0, rtol=1e-5)
    same = params.objects[:, 0] == params.objects[0, 0]  # an object looks the same in every pair
    assert (params.appearance[same, 0] == params.appearance[0, 0]).all()


@pytest.mark.parametrize("observation", ["vector", "image"])
def test_harlow_objects_of_training_and_test_differ(observation):
    env = Harlow(2, num_objects=30, observation=observation)
    assert env.held_out() == Harlow(2, num_objects=30, observation=observation, split="test")
    if observation == "vector":  # pairs are drawn alike
        assert set(drawn(env.held_out(), 300).objects.ravel()) == set(range(30, 60))
    look = np.asarray(jax.jit(jax.vmap(env.appearance_of))(jnp.arange(60))).reshape(60, -1).astype(float)
    distance = np.abs(look[:, None] - look[None]).mean(-1) + 1e9 * np.eye(60)
    assert distance.min() > (0.02 if observation == "vector" else 5.0)
    other = Harlow(2, num_objects=30, observation=observation, object_seed=1)
    assert (np.asarray(other.appearance_of(0)).astype(float).ravel() != look[0]).any()


def test_harlow_by_hand():
    """Cross, objects, choice; looking aside starts the cross anew, looking on between the objects does nothing."""
    env = Harlow(2, object_size=3, num_fixations=2, patience=2)
    params = env.sample_params(jax.random.key(0)).replace(rewarded_side=jnp.array([RIGHT, LEFT]))
    actions = [FIXATE, LEFT, FIXATE, FIXATE, FIXATE, RIGHT, FIXATE, FIXATE, RIGHT]
    obs, rewards, ends = walk(env, actions, params)
    np.testing.assert_allclose(rewards, [0, 0, 0, 0.2, 0, 1, 0, 0.2, -1], rtol=1e-6)
    assert ends == [False] * 8 + [True]
    right, other = np.asarray(params.appearance)
    cross, first, second = np.eye(1, 7)[0], np.r_[0, other, right], np.r_[0, right, other]
    shown = [cross] * 4 + [first] * 2 + [cross] * 2 + [second, cross]
    np.testing.assert_allclose(obs, np.stack(shown), rtol=1e-6)
    assert env.episode_length == 12
    assert env.is_truncated(HarlowState(choices=jnp.int32(0), fixated=jnp.int32(0), time=jnp.int32(12)), params)


def test_harlow_frames_show_the_cross_or_the_objects():
    env = Harlow(1, observation="image")
    params = env.sample_params(jax.random.key(0)).replace(rewarded_side=jnp.array([LEFT]))
    obs, _, _ = walk(env, [FIXATE, LEFT], params)
    cross, objects, after = obs
    np.testing.assert_array_equal(cross, after)
    assert cross[..., 0].astype(bool).sum() == 20
    assert not cross[..., 1:].any()
    np.testing.assert_array_equal(objects[2:18, 2:18], params.appearance[0])
    np.testing.assert_array_equal(objects[2:18, 22:38], params.appearance[1])
    assert objects.sum() == params.appearance.sum(dtype=jnp.uint32)


# --- Grid.


def test_grid_layouts():
    maze, field = GridNavigation("i-maze", 5), GridNavigation("open", 4)
    expected = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(maze.free, expected)
    np.testing.assert_array_equal(maze.cells[maze.goals], [[0, 0], [0, 4], [4, 0], [4, 4]])
    assert field.free.all()
    np.testing.assert_array_equal(field.goals, np.arange(16))
    # North, east, south, west of the corner and of the middle of the open field.
    np.testing.assert_array_equal(field.next_cell[[0, 5]], [[0, 1, 4, 0], [1, 6, 9, 4]])
    for env in (maze, field):
        assert set(drawn(env).goal) == set(env.goals)


@hypothesis.given(st.sampled_from(["i-maze", "open"]), st.sampled_from([3, 5, 7]))
@hypothesis.settings(max_examples=6)
def test_grid_moves_can_be_undone(layout, size):
    """South undoes north and west undoes east, unless there was a wall."""
    following = GridNavigation(layout, size).next_cell
    for move in range(4):
        moved = following[:, move] != np.arange(len(following))
        back = following[following[:, move], (move + 2) % 4]
        assert (back[moved] == np.arange(len(following))[moved]).all()


def test_grid_goal_pays_and_puts_back_anywhere_else():
    env = GridNavigation("open", 3)
    params = env.sample_params(jax.random.key(0)).replace(goal=jnp.int32(4))

    def one(key):
        state = env.reset_env(key, params)[1].replace(cell=jnp.int32(3))
        _, reached, reward, ended, _ = env.step_env(key, state, 1, params)  # east
        _, missed, nothing, _, _ = env.step_env(key, state, 0, params)  # north
        return reached.cell, reward, ended, missed.cell, nothing, env.reset_env(key, params)[1].cell

    cell, reward, ended, missed, nothing, start = jax.tree.map(
        np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))
    )
    assert (reward == 1).all()
    assert not ended.any()
    assert (missed == 0).all()
    assert (nothing == 0).all()
    for cells in (cell, start):
        counts = np.bincount(cells, minlength=9)
        assert counts[4] == 0
        assert scipy.stats.chisquare(np.delete(counts, 4)).pvalue > P_VALUE


def test_grid_observations():
    """The place as two one-hot vectors, or the free cells around."""
    place = GridNavigation("i-maze", 5)
    row_column = place._views.reshape(-1, 2, 5).argmax(-1)
    np.testing.assert_array_equal(row_column, place.cells)
    view = GridNavigation("i-maze", 5, view_radius=1)._views.reshape(-1, 3, 3)
    np.testing.assert_array_equal(view[0], [[0, 0, 0], [0, 1, 1], [0, 0, 0]])  # a corner
    np.testing.assert_array_equal(view[6], [[0, 1, 0], [0, 1, 0], [0, 1, 0]])  # in the corridor


# --- Names and errors.


@pytest.mark.parametrize(
    ("text", "name", "env", "num_episodes"),
    [
        ("dependent", "dependent:n=100", DependentBandit(), 100),
        ("dependent:p=90,n=5", "dependent:p=90,n=5", DependentBandit(90), 5),
        ("informative", "informative:k=10,t=5,n=1", InformativeBandit(), 1),
        ("restless", "restless:t=100,low=2,high=20,n=1", RestlessBandit(), 1),
        (
            "restless:jump=1,p=80,block=25,low=1",
            "restless:t=100,low=1,high=20,jump=1,p=80,block=25,n=1",
            RestlessBandit(low_percent=1, jump=True, better_percent=80, block_length=25),
            1,
        ),
        ("two-step", "two-step:trials=100,common=75,switch=0,n=1", TwoStep(), 1),
        (
            "two-step:common=80,switch=25,fixation=1",
            "two-step:trials=100,common=80,switch=25,fixation=1,n=1",
            TwoStep(common_percent=80, switch_permille=25, fixation=True),
            1,
        ),
        ("harlow", "harlow:trials=10,n=1", Harlow(), 1),
        ("harlow:trials=6,image=1", "harlow:trials=6,image=1,n=1", Harlow(6, observation="image"), 1),
        ("grid", "grid:size=7,t=200,n=1", GridNavigation(), 1),
        ("grid:open=1,view=2", "grid:open=1,size=7,t=200,view=2,n=1", GridNavigation("open", view_radius=2), 1),
    ],
)
def test_names(text, name, env, num_episodes):
    task = parse_task(text)
    assert (task.name, task.kind.name) == (name, text.partition(":")[0])
    assert (task.env, task.num_episodes) == (env, num_episodes)
    assert parse_task(task.name) == task
    assert preset_for(task, "cpu").trial.num_episodes == num_episodes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dependent:p=50", r"better_percent \(p\) must be in \(50, 100\], got 50"),
        ("informative:k=1", r"num_targets \(k\) must be .*got 1"),
        ("informative:t=0", r"episode_length \(t\) must be .*got 0"),
        ("restless:t=0", r"episode_length \(t\) must be .*got 0"),
        ("restless:low=-1", r"low_percent \(low\) must be .*got -1"),
        ("restless:low=30", r"high_percent \(high\) must be from low_percent \(low\), 30, to 100, got 20"),
        ("restless:p=80", r"better_percent \(p\) must be left out without jumps.*got 80"),
        ("restless:jump=1,p=40", r"better_percent \(p\) must be .*got 40"),
        ("restless:jump=2", r"jump must be 0 or 1, got 2"),
        ("restless:block=0", r"block_length \(block\) must be .*got 0"),
        ("two-step:trials=0", r"num_decisions \(trials\) must be .*got 0"),
        ("two-step:common=20", r"common_percent \(common\) must be .*got 20"),
        ("two-step:switch=1001", r"switch_permille \(switch\) must be .*got 1001"),
        ("two-step:p=10", r"better_percent \(p\) must be .*got 10"),
        ("harlow:trials=0", r"num_choices \(trials\) must be .*got 0"),
        ("harlow:objects=1", r"num_objects \(objects\) must be .*got 1"),
        ("harlow:size=0", r"object_size \(size\) must be .*got 0"),
        ("harlow:fixations=0", r"num_fixations \(fixations\) must be .*got 0"),
        ("harlow:patience=0", r"patience must be .*got 0"),
        ("grid:size=6", "size must be an odd integer >= 3, got 6"),
        ("grid:size=2,open=1", "size must be an integer >= 3, got 2"),
        ("grid:t=0", r"episode_length \(t\) must be .*got 0"),
        ("grid:view=-1", r"view_radius \(view\) must be .*got -1"),
    ],
)
def test_bad_names_say_why(text, said):
    with pytest.raises(ValueError, match=said):
        parse_task(text)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Harlow(observation="frame"), "observation must be one of vector, image, got 'frame'"),
        (lambda: Harlow(split="valid"), "split must be one of train, test, got 'valid'"),
        (lambda: GridNavigation("t-maze"), "layout must be one of i-maze, open, got 't-maze'"),
    ],
)
def test_bad_choices_say_why(make, said):
    with pytest.raises(ValueError, match=said):
        make()
