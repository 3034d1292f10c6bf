"""Mazes, motion and view, against closed forms and against what the real engine showed (golden values)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.agents import random_agent
from rl2jax.agents.maze import MAZE_AGENTS
from rl2jax.envs import TabularMDP, TaskDistribution
from rl2jax.envs.base import Environment
from rl2jax.envs.maze import MazeNavigation, kinematics, world
from rl2jax.envs.maze.kinematics import CELL, FORWARD, TURN_LEFT, TURN_RIGHT, UNIT, Pose
from rl2jax.envs.maze.mazes import Maze, _contents, free_cells, generate_maze, maze_set, spanning_tree
from rl2jax.envs.maze.navigation import NUM_SYMBOLS, symbols
from rl2jax.envs.maze.raycast import render
from rl2jax.envs.names import parse_task
from rl2jax.training.presets import preset_for
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial

shown = jax.jit(render)


def corridor(length: int = 3, heading: int = 0) -> Maze:
    """Cells in the lowest row of a maze, from the start in the west to the target in the east."""
    size = max(length, 2)
    east = np.ones((size, size + 1), bool)
    east[0, 1:length] = False
    north = np.ones((size + 1, size), bool)
    return Maze(*map(jnp.asarray, (east, north, np.int32([0, length - 1]), np.int32([0, 0]), np.int32(heading))))


def reachable(maze: Maze) -> np.ndarray:
    return free_cells(jax.tree.map(np.asarray, maze))


@pytest.mark.parametrize("side", [2, 3, 5])
def test_prim_makes_a_spanning_tree(side):
    """side^2 - 1 passages that connect all rooms are a tree."""
    east, north = jax.jit(jax.vmap(lambda key: spanning_tree(key, side)))(jax.random.split(jax.random.key(0), 50))
    assert np.all(east.sum(axis=(1, 2)) + north.sum(axis=(1, 2)) == side**2 - 1)
    walls = jax.jit(jax.vmap(lambda key: generate_maze(key, side, thin=True)))(jax.random.split(jax.random.key(1), 50))
    assert all(reachable(walls.at(i)).all() for i in range(50))


def test_prims_four_trees_of_four_rooms_are_equally_likely():
    """By symmetry each of the four passages is the missing one a quarter of the time."""
    east, north = jax.jit(jax.vmap(lambda key: spanning_tree(key, 2)))(jax.random.split(jax.random.key(0), 4000))
    passages = np.concatenate([np.asarray(east).reshape(4000, 2), np.asarray(north).reshape(4000, 2)], axis=1)
    missing = (~passages).mean(axis=0)
    np.testing.assert_allclose(missing, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))


@pytest.mark.parametrize(("size", "thin"), [(5, False), (9, False), (4, True)])
def test_start_and_target_are_different_free_cells_of_one_maze(size, thin):
    mazes = jax.jit(jax.vmap(lambda key: generate_maze(key, size, thin)))(jax.random.split(jax.random.key(2), 60))
    mazes = jax.tree.map(np.asarray, mazes)
    rooms = ((size + 1) // 2) ** 2
    for index in range(60):
        maze = mazes.at(index)
        free = reachable(maze)
        assert free.sum() == (size * size if thin else 2 * rooms - 1)
        assert free[tuple(maze.start)]
        assert free[tuple(maze.target)]
        assert tuple(maze.start) != tuple(maze.target)
        assert maze.start_heading % 4 == 0
        assert maze.east_walls[:, [0, -1]].all()
        assert maze.north_walls[[0, -1]].all()


def test_test_mazes_are_no_training_mazes():
    train, test = maze_set(5, False, 3, 300, 300)
    contents = [
        {m.east_walls[i].tobytes() + m.north_walls[i].tobytes() + m.target[i].tobytes() for i in range(300)}
        for m in (train, test)
    ]
    assert not contents[0] & contents[1]
    again, _ = maze_set.__wrapped__(5, False, 3, 300, 300)
    assert all(np.array_equal(a, b) for a, b in zip(train, again, strict=True))


def test_more_training_mazes_are_no_test_mazes_and_leave_the_sets_as_they_are():
    few, many = (MazeNavigation(num_mazes=100, num_more=more) for more in (0, 400))
    train, test = few.mazes, many.held_out().mazes
    assert all(np.array_equal(a, b) for a, b in zip(test, few.held_out().mazes, strict=True))
    assert all(np.array_equal(a[:100], b) for a, b in zip(many.mazes, train, strict=True))
    contents = [set(_contents(mazes)) for mazes in (many.mazes, test)]
    assert not contents[0] & contents[1]
    assert len(contents[0]) > 300  # of 500, where small mazes repeat
    indices = np.asarray(jax.vmap(many.sample_maze_index)(jax.random.split(jax.random.key(0), 300)))
    assert indices.max() > 400
    held_out = jax.vmap(many.held_out().sample_maze_index)(jax.random.split(jax.random.key(0), 300))
    assert int(held_out.max()) < 100


def test_a_size_with_too_few_mazes_is_refused():
    with pytest.raises(ValueError, match="size 3 has too few different mazes for 500"):
        maze_set(3, False, 0, 500, 500)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 4}, "size must be odd"),
        ({"size": 1}, "size must be between 3 and 63, got 1"),
        ({"turn": 3}, "turn must be 1, 2 or 4"),
        ({"split": "all"}, "split must be one of train, test, fresh, got 'all'"),
        ({"episode_length": 0}, r"episode_length \(t\) must be an integer >= 1"),
        ({"num_mazes": 0}, "num_mazes must be an integer >= 1"),
        ({"num_more": -1}, "num_more must be an integer >= 0, got -1"),
        ({"observation": "map"}, "observation must be one of frame, symbols"),
    ],
)
def test_bad_settings_say_why(settings, message):
    with pytest.raises(ValueError, match=message):
        MazeNavigation(**settings)


def test_names_of_mazes():
    assert parse_task("maze:size=5").name == "maze:size=5,t=250,n=2"
    assert parse_task("maze:size=9").env.episode_length == 1000
    assert parse_task("maze:size=4,thin=1,map=1,turn=4,mazes=50,t=30,n=3").env == MazeNavigation(
        4, 30, thin=True, turn=4, num_mazes=50, observation="symbols"
    )
    with pytest.raises(ValueError, match="thin must be 0 or 1, got 2"):
        parse_task("maze:thin=2")


def test_forward_is_a_fifth_of_a_cell_and_stops_at_walls():
    """From the middle of the first of three cells: the box, 16 wide to each side, meets the end wall at 384."""
    maze, move = corridor(3), jax.jit(kinematics.move)
    pose = kinematics.start_pose(maze)
    positions, hits = [], []
    for _ in range(14):
        pose, hit = move(pose, FORWARD, maze)
        positions.append(float(pose.x) / UNIT)
        hits.append(bool(hit))
    np.testing.assert_allclose(positions[:11], 64 + 25.6 * np.arange(1, 12), atol=1e-3)
    # 11 steps lead to 345.6; a whole one more would be 371.2 > 368, half a one is 358.4.
    np.testing.assert_allclose(positions[11:], 358.4, atol=1e-3)
    assert hits == [False] * 11 + [True] * 3


def test_turns_add_up():
    maze, pose = corridor(), Pose(jnp.int32(CELL // 2), jnp.int32(CELL // 2), jnp.int32(15))
    assert kinematics.move(pose, jnp.int32(TURN_LEFT), maze)[0].heading == 0
    assert kinematics.move(pose, jnp.int32(TURN_RIGHT), maze)[0].heading == 14
    turned, hit = kinematics.move(pose, jnp.int32(TURN_RIGHT), maze, turn=4)
    assert (turned.heading, turned.x, bool(hit)) == (11, pose.x, False)


def test_a_wall_ahead_is_as_high_as_perspective_says():
    """Looking at the end wall from 320 units away: 32 / 320 of 96 rows up and down, of which every fourth is kept."""
    frame = np.asarray(shown(Pose(jnp.int32(64 * UNIT), jnp.int32(CELL // 2), jnp.int32(0)), corridor(3)))
    # The target's cell, the third, begins at 256: its red side is 192 units away.
    column = frame[:, 20]
    rows = 2 + 4 * np.arange(30)
    above = (60 - rows - 1) / 96 * 192
    expected = np.where(above >= 32, 147, np.where(above >= -32, 255, 75))
    assert np.array_equal(column[:, 0], expected)
    assert np.array_equal(column[column[:, 0] == 255], np.full((np.sum(expected == 255), 3), (255, 0, 0)))


def test_the_view_turns_with_the_player():
    """In a cell with four walls each quarter turn shows the same shapes, in the other wall's colour."""
    box = Maze(jnp.ones((2, 3), bool), jnp.ones((3, 2), bool), jnp.int32([1, 1]), jnp.int32([0, 0]), jnp.int32(0))
    middle = jnp.int32(CELL // 2)
    east, north = (np.asarray(shown(Pose(middle, middle, jnp.int32(h)), box)) for h in (0, 4))
    swapped = np.select(
        [np.all(east == world.EAST_WALL, -1, keepdims=True), np.all(east == world.NORTH_WALL, -1, keepdims=True)],
        [np.array(world.NORTH_WALL), np.array(world.EAST_WALL)],
        east,
    )
    assert np.array_equal(swapped, north)


def test_rewards_and_ends_of_a_straight_walk():
    """64 + 25.6 n reaches 256 at n = 8: seven steps at -0.04, then +1 - 0.04; the next episode starts over."""
    env = MazeNavigation(episode_length=50)
    params = env.params_of(corridor(3))
    trial = Trial(env, 2)
    step = jax.jit(trial.step)
    state, trial_obs = trial.reset(jax.random.key(0), params)
    assert trial_obs.obs.dtype == jnp.uint8
    rewards, ends = [], []
    for _ in range(16):
        state, trial_obs, reward, episode_done, trial_done = step(jax.random.key(0), state, jnp.int32(FORWARD), params)
        rewards.append(float(reward))
        ends.append(bool(episode_done))
    np.testing.assert_allclose(rewards, ([-0.04] * 7 + [0.96]) * 2, atol=1e-6)
    assert ends == ([False] * 7 + [True]) * 2
    assert trial_done
    assert np.array_equal(trial_obs.privileged[0].x, kinematics.start_pose(params.maze).x)


def test_running_into_a_wall_costs_a_thousandth_and_the_horizon_ends_an_episode():
    env = MazeNavigation(episode_length=4)
    params = env.params_of(corridor(3, heading=8))
    trial = Trial(env, 1)
    state, _ = trial.reset(jax.random.key(0), params)
    outcomes = []
    for _ in range(4):
        state, _, reward, episode_done, _ = trial.step(jax.random.key(0), state, jnp.int32(FORWARD), params)
        outcomes.append((round(float(reward), 4), bool(episode_done)))
    assert outcomes == [(-0.04, False), (-0.041, False), (-0.041, False), (-0.041, True)]


def test_evaluation_is_in_other_mazes():
    env = MazeNavigation(num_mazes=40)
    assert env.held_out() == MazeNavigation(num_mazes=40, split="test")
    assert env.held_out().held_out() == env.held_out()
    fresh = MazeNavigation(split="fresh")
    assert fresh.held_out() is fresh
    bandit = TabularMDP()
    assert bandit.held_out() is bandit


def test_tasks_are_drawn_from_the_set():
    env = MazeNavigation(num_mazes=7, maze_seed=1)
    params = jax.jit(jax.vmap(env.sample_params))(jax.random.split(jax.random.key(0), 30))
    indices = np.asarray(jax.vmap(env.sample_maze_index)(jax.random.split(jax.random.key(0), 30)))
    assert np.array_equal(params.maze.target, env.mazes.target[indices])
    assert set(indices) == set(range(7))


def test_a_redrawn_start_is_free_and_not_the_target():
    env = MazeNavigation(redraw_start=True)
    params = env.params_of(jax.tree.map(jnp.asarray, env.mazes.at(0)))
    _, states = jax.jit(jax.vmap(env.reset_env, (0, None)))(jax.random.split(jax.random.key(0), 200), params)
    cells = np.stack([np.asarray(states.pose.y) // CELL, np.asarray(states.pose.x) // CELL], axis=1)
    free = reachable(params.maze)
    assert free[tuple(cells.T)].all()
    assert not np.all(cells == np.asarray(params.maze.target), axis=1).any()
    assert len({tuple(cell) for cell in cells}) == free.sum() - 1


def test_symbols_of_a_corridor():
    """In the middle of its first cell: walls all around but to the east, no target near, the middle of the cell."""
    seen = np.asarray(symbols(kinematics.start_pose(corridor(3)), corridor(3)))
    assert seen.shape == (NUM_SYMBOLS,)
    east, north, target = seen[:12].reshape(3, 4), seen[12:24].reshape(4, 3), seen[24:33].reshape(3, 3)
    assert (east[1, 1], east[1, 2], north[1, 1], north[2, 1]) == (1, 0, 1, 1)
    assert target.sum() == 0
    np.testing.assert_allclose(seen[33:], [0, 0, -2 / 3, -2 / 3, 1, 0], atol=1e-6)
    near = corridor(3)._replace(start=jnp.int32([0, 1]))
    assert np.asarray(symbols(kinematics.start_pose(near), near))[24:33].reshape(3, 3)[1, 2] == 1


def test_task_features_are_the_target_seen_from_the_start():
    env = MazeNavigation()
    for heading, expected in ((0, (2, 0)), (4, (0, -2)), (8, (-2, 0)), (12, (0, 2))):
        features = env.task_features(env.params_of(corridor(3, heading)))
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_no_network_reads_what_is_privileged():
    config = preset_for(parse_task("maze:t=10,n=1,map=1"), "quick").replace({"batch.size": 100})
    from rl2jax.training.learner import Learner

    learner = Learner(MazeNavigation(episode_length=10, observation="symbols"), config)
    params = jax.jit(learner.networks.init)(jax.random.key(0))
    task = learner.env.sample_params(jax.random.key(1))
    agent = learner.networks.agent(params["policy"])
    trajectory = jax.jit(lambda key: rollout(key, agent, learner.trial, task))(jax.random.key(2))
    blind = trajectory.trial_obs._replace(privileged=())
    dist_params = jax.jit(learner.networks.dist_params)
    seeing = dist_params(params["policy"], trajectory.trial_obs)
    assert np.array_equal(seeing, dist_params(params["policy"], blind))


def test_planners_belong_to_mazes():
    from rl2jax.agents import reference_agents

    assert reference_agents(MazeNavigation()) is MAZE_AGENTS


def test_a_horizon_can_be_changed():
    task = parse_task("maze:size=9,n=3").with_settings(t=70)
    assert task.name == "maze:size=9,t=70,n=3"
    with pytest.raises(ValueError, match="task must be one with t= in its name, got 'bandit:k=5,n=10'"):
        parse_task("bandit:k=5,n=10").with_settings(t=3)


@pytest.mark.parametrize("redraw_start", [False, True])
def test_a_step_is_gymnax_s_with_one_frame_less(redraw_start):
    """Within an episode, at its horizon, and in the target."""
    env = MazeNavigation(3, 6, num_mazes=20, redraw_start=redraw_start)
    params = jax.vmap(env.sample_params)(jax.random.split(jax.random.key(0), 60))
    keys = jax.random.split(jax.random.key(1), 60)
    _, state = jax.vmap(env.reset)(keys, params)
    ended = np.zeros(2, int)
    for number in range(14):
        keys = jax.random.split(jax.random.key(2 + number), 60)
        actions = jax.random.randint(jax.random.key(100 + number), (60,), 0, 2)
        ours = jax.vmap(env.step)(keys, state, actions, params)
        theirs = jax.vmap(lambda *step: Environment.step(env, *step))(keys, state, actions, params)
        chex.assert_trees_all_equal(ours, theirs)
        _, state, _, terminated, truncated, _ = ours
        ended += [int(terminated.sum()), int(truncated.sum())]
    assert all(ended > 0)


def test_the_number_of_task_features_is_known_without_mazes():
    env = MazeNavigation(split="fresh")
    assert env.num_task_features == TaskDistribution.num_task_features.fget(env) == 2


@pytest.mark.parametrize("observation", ["frame", "symbols"])
def test_an_evaluation_wastes_no_steps_and_changes_no_score(monkeypatch, observation):
    """Mazes say that they end early: trials one after another in lanes, against trials side by side."""
    trial = Trial(MazeNavigation(3, 40, num_mazes=30, observation=observation), 2)
    agent = random_agent(trial.env.action_space(None))
    in_lanes = evaluate(agent, trial, 150, evaluation_key(3))
    monkeypatch.setattr(MazeNavigation, "ends_early", False)
    side_by_side = evaluate(agent, trial, 150, evaluation_key(3))
    assert side_by_side.total_reward.std() > 0.1
    np.testing.assert_allclose(in_lanes.total_reward, side_by_side.total_reward, rtol=0, atol=1e-5)
    np.testing.assert_allclose(in_lanes.reward_curve, side_by_side.reward_curve, rtol=0, atol=1e-6)
