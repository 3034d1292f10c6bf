"""Planners in mazes: as short as a brute-force search, never through walls, always to the target."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.agents.maze import MAZE_AGENTS, known_walls, passages, steps_to_go, visible
from rl2jax.envs.maze import MazeNavigation
from rl2jax.envs.maze.kinematics import CELL, HEADINGS, RADIUS, STEPS, UNIT, Pose
from rl2jax.envs.maze.mazes import Maze, generate_maze
from rl2jax.results.mazes import episodes_of, play_twin
from rl2jax.trials.trial import Trial

pytestmark = pytest.mark.usefixtures("strict_ranks")
ENV = MazeNavigation(5, 250, split="test", num_mazes=100, observation="symbols")
SOME = np.arange(30)

see = jax.jit(visible)


def play(name, env=ENV, mazes=SOME, num_episodes=2):
    agent = MAZE_AGENTS[name].make(env, num_episodes)
    return episodes_of(play_twin(agent, Trial(env, num_episodes), mazes, jax.random.key(0)), num_episodes)


@pytest.fixture(scope="module")
def played():
    with jax.numpy_rank_promotion("raise"):
        return {name: play(name) for name in MAZE_AGENTS}


def blocked(x, y, east, north):
    """The kinematics' rule, in numpy."""
    size = north.shape[1]

    def line(p):
        index = (p + RADIUS - 1) // CELL
        return np.clip(index, 0, size), index * CELL > p - RADIUS

    def cells(p):
        return np.clip((p - RADIUS) // CELL, 0, size - 1), np.clip((p + RADIUS - 1) // CELL, 0, size - 1)

    (column, over_x), (row, over_y) = line(x), line(y)
    (left, right), (below, above) = cells(x), cells(y)
    return (over_x & (east[below, column] | east[above, column])) | (over_y & (north[row, left] | north[row, right]))


def fewest_steps(maze: Maze, turn: int, grid: int = 4) -> int:
    """Breadth-first over poses, one for each `grid` units and heading; it may miss the optimum by a fraction."""
    east, north = maze.east_walls, maze.north_walls
    x, y = (np.array([int(maze.start[i]) * CELL + CELL // 2]) for i in (1, 0))
    heading = np.array([int(maze.start_heading)])
    width = north.shape[1] * CELL // (grid * UNIT) + 1
    known = np.zeros(width * width * HEADINGS, bool)
    for step in range(1, 1000):
        whole = STEPS[heading].astype(np.int64)
        half = np.sign(whole) * (np.abs(whole) // 2)
        half_free = ~blocked(x + half[:, 0], y + half[:, 1], east, north)
        free = half_free & ~blocked(x + whole[:, 0], y + whole[:, 1], east, north)
        moved = np.where(free[:, None], whole, np.where(half_free[:, None], half, 0))
        new_x, new_y = x + moved[:, 0], y + moved[:, 1]
        if np.any((new_y // CELL == maze.target[0]) & (new_x // CELL == maze.target[1])):
            return step
        x, y = np.concatenate([new_x, x, x]), np.concatenate([new_y, y, y])
        heading = np.concatenate([heading, (heading + turn) % HEADINGS, (heading - turn) % HEADINGS])
        place = ((y // (grid * UNIT)) * width + x // (grid * UNIT)) * HEADINGS + heading
        places, first = np.unique(place, return_index=True)
        first = first[~known[places]]
        known[place[first]] = True
        x, y, heading = x[first], y[first], heading[first]
    raise AssertionError("the target cannot be reached")


def test_the_shortest_path_is_that_of_a_brute_force_search(played):
    best = np.array([fewest_steps(ENV.mazes.at(i), turn=1) for i in range(12)])
    ours = played["shortest_path"].lengths[:12, 0]
    assert np.all(ours >= best - 1)
    assert np.all(ours <= best + 2)
    assert abs(ours.mean() - best.mean()) <= 0.5


def test_planners_always_reach_the_target_and_knowing_more_is_better(played):
    first = {name: episodes.lengths[:, 0].mean() for name, episodes in played.items()}
    assert first["shortest_path"] < first["explorer"] < first["depth_first"] < first["random"]
    for name in ("shortest_path", "explorer", "depth_first"):
        assert played[name].reached.all()
        np.testing.assert_array_equal(played[name].lengths[:, 1], played["shortest_path"].lengths[:, 1])
        assert np.all(played[name].lengths[:, 0] >= played["shortest_path"].lengths[:, 0])


def test_thin_walls_and_coarse_turns():
    """In maze 0 the target comes into sight before the way to it does."""
    thin = MazeNavigation(4, 250, thin=True, turn=2, split="test", num_mazes=20, observation="symbols")
    assert play("explorer", thin, np.arange(20), 1).reached.all()


def corridor() -> Maze:
    """Three cells in a row, the target in the east, above them three that are cut off."""
    walls_east = np.zeros((3, 4), bool)
    walls_east[:, [0, 3]] = True
    walls_north = np.zeros((4, 3), bool)
    walls_north[[0, 1, 3]] = True
    return Maze(walls_east, walls_north, np.array([0, 2]), np.array([0, 0]), np.array(0))


def test_steps_to_go_count_cells_and_turns():
    maze = jax.tree.map(jnp.asarray, corridor())
    goal = jnp.full((3, 3), jnp.inf).at[0, 2].set(-2.5)
    costs = steps_to_go(maze, jnp.ones((3, 3), bool), goal, turn=1)
    # Five steps a cell, less half of the last; a quarter turn takes 4 steps of 22.5 degrees.
    np.testing.assert_allclose(costs[:, 0, 0], [7.5, 11.5, 15.5, 11.5])
    assert np.all(np.isinf(costs[:, 1]))
    hidden = steps_to_go(maze, jnp.ones((3, 3), bool).at[0, 1].set(False), goal, turn=1)
    assert np.all(np.isinf(hidden[:, 0, 0]))


def test_what_lies_behind_a_wall_is_not_seen():
    maze = jax.tree.map(jnp.asarray, corridor())
    pose = Pose(*(jnp.asarray(v, jnp.int32) for v in (CELL // 2, CELL // 2, 0)))
    np.testing.assert_array_equal(see(pose, maze), [[True] * 3, [False] * 3, [False] * 3])
    north = pose._replace(heading=jnp.asarray(4, jnp.int32))
    np.testing.assert_array_equal(see(north, maze), [[True, False, False], [False] * 3, [False] * 3])
    above = pose._replace(y=jnp.asarray(CELL + CELL // 2, jnp.int32), heading=jnp.asarray(2, jnp.int32))
    np.testing.assert_array_equal(see(above, maze), [[False] * 3, [True] * 3, [True, True, True]])


def test_no_sight_through_the_corner_where_two_walls_meet():
    east, north = np.zeros((2, 3), bool), np.zeros((3, 2), bool)
    east[:, [0, 2]] = north[[0, 2]] = True
    east[0, 1] = north[1, 0] = True  # both around cell (0, 0)
    maze = Maze(*(jnp.asarray(v) for v in (east, north, np.array([1, 1]), np.array([0, 0]), np.array(0))))
    pose = Pose(*(jnp.asarray(v, jnp.int32) for v in (CELL // 2, CELL // 2, 2)))
    np.testing.assert_array_equal(see(pose, maze), [[True, False], [False, False]])


def test_the_explorer_does_not_use_walls_it_has_not_seen():
    """Between two cells that were not seen walls may be as they like: the same action."""
    agent = MAZE_AGENTS["explorer"].make(ENV, 1)
    trial = Trial(ENV, 1)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def both(maze, key, heading):
        key_seen, key_east, key_north = jax.random.split(key, 3)
        params = ENV.params_of(maze)
        _, trial_obs = trial.reset(key, params)
        pose = trial_obs.privileged[0]._replace(heading=heading)
        state = agent.init(key)
        state = state._replace(seen=jax.random.bernoulli(key_seen, 0.3, state.seen.shape))
        seen = state.seen | visible(pose, maze)
        open_everywhere = maze._replace(
            east_walls=jnp.zeros_like(maze.east_walls), north_walls=jnp.zeros_like(maze.north_walls)
        )
        unknown = known_walls(open_everywhere, seen)
        other = maze._replace(
            east_walls=maze.east_walls ^ (unknown.east_walls & jax.random.bernoulli(key_east, 0.5, (5, 6))),
            north_walls=maze.north_walls ^ (unknown.north_walls & jax.random.bernoulli(key_north, 0.5, (6, 5))),
        )
        changed = jnp.any(passages(other) != passages(maze))
        two = jax.tree.map(lambda *leaves: jnp.stack(leaves), maze, other)
        actions = jax.vmap(lambda maze: agent.step(key, state, trial_obs._replace(privileged=(pose, maze)))[1])(two)
        # Another maze may look different from here: only where the same is seen must the same be done.
        comparable = jnp.all(visible(pose, other) == visible(pose, maze))
        return actions, changed & comparable

    mazes = jax.jit(jax.vmap(lambda key: generate_maze(key, 5)))(jax.random.split(jax.random.key(1), 400))
    actions, compared = both(mazes, jax.random.split(jax.random.key(2), 400), jnp.asarray(3, jnp.int32))
    assert compared.sum() > 200
    np.testing.assert_array_equal(*actions[compared].T)
