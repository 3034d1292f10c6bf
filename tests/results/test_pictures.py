"""Pictures of mazes: cases chosen by rule, ways cut by episode, files written without a warning."""

import jax
import numpy as np
import pytest
from PIL import Image

from rl2jax.agents.maze import MAZE_AGENTS
from rl2jax.envs.maze import MazeNavigation
from rl2jax.envs.maze.kinematics import CELL, start_pose
from rl2jax.results.mazes import Episodes, episodes_of, play_twin, without_looking
from rl2jax.results.pages import maze_pictures as pictures
from rl2jax.trials.trial import Trial

ENV = MazeNavigation(3, 60, split="test", num_mazes=20)
MAZES = np.arange(12)


@pytest.fixture(scope="module")
def played():
    agent = MAZE_AGENTS["explorer"].make(ENV, 2)
    trajectory = play_twin(agent, Trial(without_looking(ENV), 2), MAZES, jax.random.key(0))
    return trajectory, episodes_of(trajectory, 2)


def test_typical_cases_are_the_third_quartile_of_their_kind():
    lengths = np.array([[20, 10], [20, 12], [20, 14], [20, 5], [20, 2], [20, 30], [20, 60], [60, 60]])
    reached = np.array([[True, True]] * 6 + [[True, False], [False, False]])
    intended, failed = pictures.typical_cases(Episodes(lengths, reached))
    assert intended.trial == 3  # savings 6, 8, 10, 15, 18: the fourth of five
    assert failed.trial == 5  # losses 10, 40: at three quarters of one, rounded down
    assert pictures.typical_cases(Episodes(lengths[:5], reached[:5])) == [intended]
    assert pictures.typical_cases(Episodes(lengths[7:], reached[7:])) == []


def test_ways_start_at_the_start_and_end_before_the_target(played):
    trajectory, episodes = played
    for trial in range(len(MAZES)):
        maze = ENV.mazes.at(trial)
        start = start_pose(maze)
        for number, route in enumerate(pictures.routes(trajectory, episodes, trial)):
            assert (route.x[0], route.y[0]) == (int(start.x) / CELL, int(start.y) / CELL)
            assert len(route.x) == route.length == episodes.lengths[trial, number]
            away = np.abs([route.y[-1], route.x[-1]] - (maze.target + 0.5))
            assert away.max() <= 0.5 + 0.2 + 1e-3  # a step is a fifth of a cell


def test_the_target_comes_into_sight(played):
    trajectory, _ = played
    pose = pictures.first_sight(ENV.mazes.at(0), trajectory, 0)
    frame = pictures.view(pose, ENV.mazes.at(0))
    assert np.mean(np.all(frame == (255, 0, 0), axis=-1)) >= 0.03


def test_pictures_are_written(played, tmp_path):
    """Warnings are errors here; what they look like was looked at."""
    trajectory, episodes = played
    cases = [pictures.Case("one", 0), pictures.Case("another", 3)]
    drawn = {
        "views": pictures.views_and_maps([("start", ENV.mazes.at(0), None)]),
        "behaviour": pictures.behaviour(ENV.mazes, trajectory, episodes, cases),
    }
    for name, figure in drawn.items():
        path = tmp_path / f"{name}.png"
        figure.savefig(path)
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("RGB")).std() > 5
    titles = [axis.get_title() for axis in drawn["behaviour"].axes]
    assert f"episode 2: {episodes.lengths[3, 1]} steps" in titles
    with pytest.raises(ValueError, match="cases must be at least one trial"):
        pictures.behaviour(ENV.mazes, trajectory, episodes, [])


def test_a_film_has_a_picture_for_each_step(played, tmp_path):
    trajectory, episodes = played
    path = tmp_path / "trial.gif"
    pictures.write_gif(path, ENV.mazes.at(3), trajectory, episodes, 3)
    with Image.open(path) as film:
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
    # Pictures that equal the one before them are joined.
    steps = episodes.lengths[3]
    assert sum(durations) == 60 * (steps.sum() - 2) + 2 * 1000
    assert path.stat().st_size < 1_000_000


def test_curves_have_a_line_a_seed_and_a_band():
    seeds = [[{"iteration": i, "mean_return": level + i} for i in range(1, 11)] for level in (0.0, 2.0)]
    (axis,) = pictures.training_curves({"cpu": seeds, "none": [[]]}, references={"random": -1.0}).axes
    mean, *each = axis.get_lines()
    np.testing.assert_allclose(mean.get_ydata(), 1.0 + np.arange(1, 11))
    assert len(each) == 3  # two seeds, one reference
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 12.0)
    with pytest.raises(ValueError, match="at least one run with metrics"):
        pictures.training_curves({"none": [[]]})
