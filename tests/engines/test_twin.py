"""The twin against the real engine: the same poses, rewards and, within rounding of pixels, frames."""

import numpy as np
import pytest

from rl2jax.engines.vizdoom import mazes, twin_check
from rl2jax.engines.vizdoom.twin_check import TwinReport
from rl2jax.envs.maze import MazeNavigation

pytest.importorskip("vizdoom")


def assert_same(report: TwinReport, steps: int):
    assert report.steps >= steps
    assert (report.pose_mismatches, report.reward_mismatches) == (0, 0)
    assert report.max_frame_error < 3
    assert report.mean_frame_error < 0.5


def test_a_few_hundred_steps():
    env, done = MazeNavigation(size=5, num_mazes=6, episode_length=40), []
    assert_same(twin_check.twin_check(env, 600, seed=1, progress=done.append, games_per_worker=2), 600)
    assert done[-1] == 600


@pytest.mark.parametrize("difference", ["pose", "frame"])
def test_a_difference_is_found(monkeypatch, difference):
    """An engine that turns twice as far, or whose pixels are next to ours."""
    settings = mazes.settings_of

    def changed(env):
        right = settings(env)
        if difference == "frame":
            return right._replace(offset=0)
        return right._replace(buttons=[[forward, 2 * turn] for forward, turn in right.buttons])

    monkeypatch.setattr(mazes, "settings_of", changed)
    report = twin_check.twin_check(
        MazeNavigation(size=5, num_mazes=6, episode_length=40), 60, num_workers=1, games_per_worker=2
    )
    assert (report.pose_mismatches > 0) == (difference == "pose")
    assert report.max_frame_error > 3
    assert np.isfinite(report.mean_frame_error)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "episode_length"), [(5, 250), (9, 1000)])
def test_twenty_thousand_steps(size, episode_length):
    assert_same(twin_check.twin_check(MazeNavigation(size=size, episode_length=episode_length), 20_000), 20_000)
