"""Episodes cut from trials, Table 3's statistics in closed form, trials on the device and in ViZDoom, the page."""

import importlib.util
import math
from html.parser import HTMLParser

import jax
import numpy as np
import pytest

from rl2jax.agents.random import random_agent
from rl2jax.envs.maze import MazeNavigation
from rl2jax.results.mazes import (
    Episodes,
    episodes_of,
    maze_row,
    play,
    play_twin,
    score,
    side_by_side,
    without_looking,
)
from rl2jax.results.pages.table3 import Picture, build_page, documented, sections, to_markdown
from rl2jax.results.published import MAZES
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial
from rl2jax.types import Trajectory, TrialObservation

SMALL, LARGE = MAZES
STEP, WALL, TARGET = -0.04, -0.041, 0.96


def by_hand(trials: list[list[list[float]]]) -> Trajectory:
    """A trajectory from the rewards of each step of each episode of each trial."""
    num_steps = max(sum(map(len, trial)) for trial in trials)
    reward, done, mask = (np.zeros((num_steps, len(trials)), np.float32) for _ in range(3))
    for column, trial in enumerate(trials):
        step = 0
        for episode in trial:
            reward[step : step + len(episode), column] = episode
            step += len(episode)
            done[step - 1, column] = 1.0
        mask[:step, column] = 1.0
    seen = TrialObservation((), done, reward, done, (done, ()))
    return Trajectory(seen, done, reward, done, mask, reward, (), np.zeros((len(trials), 2)))


# Three trials of two episodes with a horizon of 4.
FAILED = [STEP, WALL, STEP, STEP]
TRIALS = [
    [[STEP, STEP, TARGET], [TARGET]],
    [FAILED, [STEP, TARGET]],
    [[STEP, TARGET], FAILED],
]


def test_episodes_are_cut_at_their_ends():
    episodes = episodes_of(by_hand(TRIALS), 2)
    np.testing.assert_array_equal(episodes.lengths, [[3, 1], [4, 2], [2, 4]])
    np.testing.assert_array_equal(episodes.reached, [[True, True], [False, True], [True, False]])


def test_the_target_on_the_last_step_of_the_horizon_is_reached():
    """Bumping into a wall on the way in, too; the flag alone would not tell."""
    episodes = episodes_of(by_hand([[[STEP, STEP, STEP, TARGET - 0.001], FAILED]]), 2)
    np.testing.assert_array_equal(episodes.reached, [[True, False]])


def test_unfinished_trials_are_refused():
    with pytest.raises(ValueError, match="every trial must have 3 episodes, there are 2 to 2"):
        episodes_of(by_hand(TRIALS), 3)


def test_scores_in_closed_form():
    scores = score(episodes_of(by_hand(TRIALS), 2), shortest=np.array([1, 2, 2]))
    np.testing.assert_allclose(scores.success_length, [2.5, 1.5])
    np.testing.assert_allclose(scores.success_length_error, [0.5, 0.5])  # sd sqrt(1/2) of 2
    np.testing.assert_allclose(scores.success_percent, [200 / 3] * 2)
    np.testing.assert_allclose(scores.success_percent_error, [100 * math.sqrt(2 / 27)] * 2)
    assert scores.improved_percent == pytest.approx(200 / 3)
    assert scores.found_again_percent == pytest.approx(200 / 3)
    np.testing.assert_allclose(scores.length, [3.0, 7 / 3])
    np.testing.assert_allclose(scores.length_error, [1 / math.sqrt(3), math.sqrt(7 / 3 / 3)])
    np.testing.assert_allclose(scores.excess, [1.0, 0.0])  # (2 + 0) / 2, (0 + 0) / 2


def test_two_failures_count_as_improved_but_not_as_found_again():
    scores = score(episodes_of(by_hand([[FAILED, FAILED], [[TARGET], FAILED]]), 2))
    assert (scores.improved_percent, scores.found_again_percent) == (50.0, 0.0)
    assert scores.success_length[0] == 1.0
    assert math.isnan(scores.success_length_error[0])
    assert math.isnan(scores.success_length[1])
    assert np.isnan(scores.excess).all()


def test_one_episode_cannot_improve():
    assert math.isnan(score(Episodes(np.array([[3], [5]]), np.array([[True], [True]]))).improved_percent)


def test_a_row_has_everything_and_no_nan():
    row = maze_row(by_hand(TRIALS), 2, np.array([1, 2, 2]), task=SMALL, agent="rl2", engine="twin")
    assert (row["num_tasks"], row["agent"], row["success_length"]) == (3, "rl2", [2.5, 1.5])
    assert row["mean"] == pytest.approx((0.96 * 4 + STEP * 10 + WALL * 2) / 3, abs=1e-6)
    alone = maze_row(by_hand([[FAILED]]), 1, None, task=SMALL, agent="rl2")
    assert alone["success_length"] == [None]
    assert alone["standard_error"] is None


def test_batches_of_trials_side_by_side():
    joined = side_by_side([by_hand(TRIALS[:1]), by_hand(TRIALS[1:])])
    np.testing.assert_array_equal(joined.mask, by_hand(TRIALS).mask)
    np.testing.assert_array_equal(episodes_of(joined, 2).lengths, [[3, 1], [4, 2], [2, 4]])


# --- Played.

ENV = MazeNavigation(3, 40, split="test", num_mazes=20)
TRIAL = Trial(without_looking(ENV), 2)
AGENT = random_agent(ENV.action_space(None))


def test_a_played_trial_is_a_rollout():
    mazes, key = np.array([3, 11, 3]), jax.random.key(5)
    played = play_twin(AGENT, TRIAL, mazes, key)
    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    params = jax.jit(jax.vmap(TRIAL.env.params_of))(TRIAL.env.mazes.at(mazes))
    rolled = jax.jit(jax.vmap(lambda k, p: rollout(k, AGENT, TRIAL, p), out_axes=1))(keys, params)
    for name in ("action", "reward", "episode_done", "mask"):
        np.testing.assert_array_equal(getattr(played, name), getattr(rolled, name)[: len(played.mask)], err_msg=name)
    pose = played.trial_obs.privileged[0]
    np.testing.assert_array_equal(pose.x, rolled.trial_obs.privileged[0].x[: len(played.mask)])
    np.testing.assert_array_equal(played.task_features, np.asarray(rolled.task_features).swapaxes(0, 1))


def test_playing_needs_mazes_of_a_set_and_a_known_engine():
    with pytest.raises(ValueError, match=r"--engine must be device, vizdoom or package\.module:object, got 'doom'"):
        play(AGENT, TRIAL, [0], jax.random.key(0), "doom")
    with pytest.raises(ValueError, match="split must be train or test, got 'fresh'"):
        play_twin(AGENT, Trial(MazeNavigation(3, 40, split="fresh"), 1), [0], jax.random.key(0))


@pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="ViZDoom is not installed")
def test_vizdoom_plays_the_same_trials():
    mazes, key = np.arange(6), jax.random.key(1)
    twin = play(AGENT, TRIAL, mazes, key, "device")
    real = play(AGENT, Trial(ENV, 2), mazes, key, "vizdoom")
    np.testing.assert_array_equal(episodes_of(twin, 2).lengths, episodes_of(real, 2).lengths)
    shown = twin.mask > 0
    for ours, theirs in zip(twin.trial_obs.privileged[0], real.trial_obs.privileged[0], strict=True):
        np.testing.assert_array_equal(ours[shown], theirs[: len(shown)][shown])


# --- The table.


def row(agent, task=SMALL, engine="vizdoom", **more):
    episodes = Episodes(np.array([[50, 40, 41, 42, 43], [60, 250, 41, 42, 43]]), np.array([[True] * 5] * 2))
    scores = {k: np.asarray(v).tolist() for k, v in score(episodes, np.array([30, 30]))._asdict().items()}
    base = {"task": task, "agent": agent, "engine": engine, "num_tasks": 2, "seed": 1, "mean": -1.0, "commit": "abc"}
    return base | scores | {"hyperparameters": {}, "command": "python <it>"} | more


TRAINED = {"trained_on": "maze:size=5,t=250,n=2", "training_seed": 3, "iteration": 70, "action_selection": "sample"}
ROWS = [row("explorer"), row("rl2", **TRAINED), row("random", LARGE, "twin")]


def test_published_numbers_are_the_papers():
    assert [MAZES[task]["rl2"].improved_percent for task in (SMALL, LARGE)] == [91.7, 71.4]
    assert MAZES[SMALL]["rl2"].success_length[1] == (39.1, 0.9)
    assert MAZES[LARGE]["rl2"].success_length[4] == (169.3, 6.5)
    assert MAZES[LARGE]["rl2"].success_percent == (97.1, 96.7, 95.8, 95.6, 96.1)
    assert MAZES[LARGE]["snail"].success_length == ((140.5, None), (105.9, None))


def test_the_real_engine_counts_before_its_twin():
    rows = [row("rl2", engine="twin"), row("rl2"), row("rl2", engine="twin")]
    assert documented(rows)[SMALL, "rl2"] is rows[1]


def test_sections_put_ours_first_and_the_published_beside_it():
    lengths, success, improved, *_ = sections(SMALL, ROWS)
    names = [name for name, _, _ in lengths.lines]
    assert names == ["RL², ours", "explorer that sees", "RL² (Duan et al. 2016)", "SNAIL (Mishra et al. 2018)"]
    assert lengths.lines[0][1][:2] == ["55.0 ± 5.0", "145.0 ± 105.0"]
    assert lengths.lines[2][1][0] == "52.4 ± 1.3"
    assert lengths.lines[3][1] == ["50.3", "34.8", "", "", ""]
    assert success.lines[-1][1][0] == "99.3%"
    assert improved.lines[0][1] == ["50.0% ± 35.4", "50.0% ± 35.4"]
    assert improved.lines[-1][1][0] == "91.7%"


def test_markdown_tables_are_regular():
    text = to_markdown(ROWS)
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert "Small mazes (5 x 5, 250 steps at most): 2 test mazes, in ViZDoom" in text
    assert "Large mazes (9 x 9, 1000 steps at most): 2 test mazes, in its twin on the device" in text
    assert "maze:size=5,t=250,n=2, seed 3, 70 iterations; actions: sample." in text


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_self_contained(tmp_path):
    picture = tmp_path / "figure.png"
    picture.write_bytes(b"not looked at")
    collector = Collector()
    collector.feed(
        build_page(ROWS, [Picture("A figure", "", picture), Picture("Not drawn yet", "", tmp_path / "none.png")])
    )
    assert collector.open == []
    assert all(address.startswith("data:") for address in collector.addresses)
    text = " ".join(collector.text)
    for expected in ("55.0 ± 5.0", "A figure", "python <it>", "depth-first search knows", "52.4 ± 1.3"):
        assert expected in text
    assert "Not drawn yet" not in text
    with pytest.raises(ValueError, match="no row of table 3"):
        build_page([])
