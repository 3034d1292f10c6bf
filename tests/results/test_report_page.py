"""The report: recorded trials are the trials themselves, the page loads nothing, and its player moves in a browser."""

import base64
import io
import json
import re
import sys
from html.parser import HTMLParser

import chromium
import jax
import numpy as np
import pytest
from PIL import Image

from rl2jax.agents.bandit import BANDIT_AGENTS
from rl2jax.agents.indices import gittins_table, pair_index
from rl2jax.cli import main as cli
from rl2jax.envs import BernoulliBandit
from rl2jax.envs.maze.kinematics import Pose
from rl2jax.envs.maze.raycast import HEIGHT, WIDTH, render
from rl2jax.envs.names import parse_task
from rl2jax.results.pages import markdown, recordings
from rl2jax.results.pages.recordings import SEED, Wanted, record, record_all, shares_beside
from rl2jax.results.pages.report_page import build_report, require_results
from rl2jax.results.pages.tables import readable_tasks
from rl2jax.results.rows import read_results, write_objects
from rl2jax.runs import shipped
from rl2jax.trials.evaluate import evaluate, evaluation_key, play_tasks
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import find_tuned

TASK = "bandit:k=5,n=10"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Gittins indices are computed into a folder of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "report-cache"))
        yield


@pytest.fixture(scope="module")
def bandits():
    return record(Wanted("bandit-k5-n10", "best", 2))


@pytest.fixture(scope="module")
def mazes():
    return record(Wanted("maze-size5-t250-n2", "best", 1))


def made_up_row(agent, mean, **more):
    row = {"task": TASK, "agent": agent, "hyperparameters": {}, "num_tasks": 1000, "seed": 1, "mean": mean}
    row |= {"standard_error": 0.0123, "reward_curve": [mean / 10] * 10, "pull_frequencies": [[0.2] * 5] * 10}
    return row | {"commit": "abc", "protocol": "large", "significantly_better": [], "command": "rl2jax <x>"} | more


def made_up_limit():
    row = {
        "task": TASK,
        "agent": "limit",
        "num_tasks": 9,
        "seed": 1,
        "mean": 6.66,
        "standard_error": None,
        "exact": 6.66,
    }
    row |= {"upper_bound": 6.66, "upper_bound_standard_error": 0.0, "method": "exact", "best_policy": "bayes_optimal"}
    return row | {"best_policy_mean": 6.66, "best_policy_standard_error": 0.01}


def write_results(folder):
    """A folder as experiments/results, with a row of most things."""
    for name in ("table1", "table3", "wang", "benchmarks"):
        (folder / name).mkdir()
    measured = {"task": TASK, "agent": "rl2", "num_tasks": 77, "training_seed": 3, "seed": 1}
    measured |= {"experiment": "bandits", "measured": {}}
    rows = [made_up_row("random", 5.0), made_up_row("gittins", 6.6), made_up_limit()]
    write_objects(folder / "table1" / "a.json", [*rows, made_up_row("rl2_best", 6.65, training_seed=0, preset="best")])
    write_objects(folder / "imitation-x.json", [made_up_row("imitation", 6.5)])
    write_objects(folder / "wang" / "bandits.json", [measured])
    (folder / "wang" / "bandits.svg").write_text('<svg role="img" aria-label="arms"><path d="M0 0"/></svg>')
    (folder / "wang.md").write_text("# W\n\n## Arms (figure 2)\n\n![Arms](wang/bandits.png)\n\n- yes: **all** <good>\n")
    (folder / "benchmarks" / "cpu.md").write_text(f"one core\n\n| task | time |\n|---|---:|\n| {TASK}, 5 | 3 s |\n")
    return folder


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path)


# --- Recorded trials.


def test_a_recorded_bandit_trial_is_that_of_the_evaluation(bandits):
    agent = shipped.load_agent("bandit-k5-n10")
    trial = Trial(BernoulliBandit(5), 10)
    totals = evaluate(agent, trial, 2, evaluation_key(SEED)).total_reward
    np.testing.assert_array_equal([sum(r["rewards"]) for r in bandits], totals)
    assert [r["trial"] for r in bandits] == [0, 1]
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(evaluation_key(SEED), i))[0])(np.arange(2))
    arms = jax.vmap(trial.env.sample_params)(keys).probs
    np.testing.assert_allclose([r["arms"] for r in bandits], arms, atol=1e-4)


def test_recorded_probabilities_are_the_policys(bandits):
    """Stepped by hand through what was recorded, with the agent alone; log-probabilities of the actions, too."""
    agent = shipped.load_agent("bandit-k5-n10")
    recording = bandits[1]
    state, trial = agent.init(jax.random.key(0)), Trial(BernoulliBandit(5), 10)
    params = trial.env.sample_params(jax.random.key(0))
    _, seen = trial.reset(jax.random.key(0), params)
    step = jax.jit(agent.step)
    for action, reward, shown in zip(*(recording[k] for k in ("actions", "rewards", "probabilities")), strict=True):
        state, own, info = step(jax.random.key(1), state, seen)
        logits = np.asarray(info.dist_params, np.float64)
        wanted = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(shown, wanted, atol=2e-4)
        assert sum(shown) == pytest.approx(1.0, abs=5e-4)
        np.testing.assert_allclose(np.exp(info.log_prob), shown[int(own)], atol=2e-4)
        seen = seen._replace(prev_action=np.int32(action), prev_reward=np.float32(reward), prev_done=np.float32(1))


def test_gittins_is_asked_about_the_recorded_pulls(bandits):
    """Its choice is the first arm of the highest index in the table of the tuned discount, at the counts so far."""
    task = parse_task(TASK)
    table = gittins_table(10, find_tuned(task, "gittins", BANDIT_AGENTS["gittins"]).hyperparameters["discount"])
    for recording in bandits:
        pulls, paid = np.zeros(5, int), np.zeros(5, int)
        for action, reward, arm in zip(*(recording[k] for k in ("actions", "rewards", "gittins")), strict=True):
            assert arm == np.argmax(table[pair_index(pulls, paid)])
            pulls[action] += 1
            paid[action] += int(reward)


def test_thompsons_share_is_that_of_the_beliefs():
    """Of two arms, the first of which has failed once: Beta(1, 2) is above a uniform variable in 1/3 of draws."""
    env = BernoulliBandit(2)
    played = play_tasks(BANDIT_AGENTS["greedy"].make(env, 2), Trial(env, 2), 1, evaluation_key(0))
    seen = jax.tree.map(lambda leaf: leaf[:, 0], played.trajectory.trial_obs)
    seen = seen._replace(prev_action=np.zeros(2, np.int32), prev_reward=np.zeros(2, np.float32))
    thompson = BANDIT_AGENTS["thompson"].make(env, 2)
    shares = shares_beside(thompson, jax.random.key(0), seen, num_draws=4000, num_actions=2)
    np.testing.assert_allclose(shares, [[1 / 2, 1 / 2], [1 / 3, 2 / 3]], atol=0.03)


def test_a_recorded_maze_trial_replays_to_its_rewards_and_frames(mazes):
    (recording,) = mazes
    env = parse_task(recording["task"]).env.held_out()
    key_task, _ = jax.random.split(jax.random.fold_in(evaluation_key(SEED), 0))
    params = env.sample_params(key_task)
    step = jax.jit(lambda state, action: env.step(jax.random.key(0), state, action, params)[1:3])
    _, state = env.reset(jax.random.key(0), params)
    poses, rewards = [], []
    for action in recording["actions"]:
        poses.append([int(v) for v in state.pose])
        state, reward = step(state, action)
        rewards.append(float(reward))
    np.testing.assert_allclose(recording["rewards"], rewards, atol=1e-4)
    x, y, heading = np.array(poses).T
    cell = 128 * 65536
    np.testing.assert_allclose(recording["x"], x / cell, atol=1e-3)
    np.testing.assert_allclose(recording["y"], y / cell, atol=1e-3)
    assert recording["heading"] == heading.tolist()
    assert np.all(np.abs(np.sum(recording["probabilities"], axis=1) - 1) < 5e-4)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(recording["frames"].partition(",")[2]))).convert("RGB"))
    for place in (0, 17, len(poses) - 1):
        line, column = divmod(place, recording["frames_across"])
        frame = sheet[line * HEIGHT : (line + 1) * HEIGHT, column * WIDTH : (column + 1) * WIDTH]
        np.testing.assert_array_equal(frame, jax.jit(render)(Pose(*map(np.int32, poses[place])), params.maze))


def test_an_agent_that_is_not_there_is_a_sentence(tmp_path):
    found, missing = record_all((Wanted("bandit-k5-n10", "best", 1),), tmp_path)
    assert found == []
    assert missing[0].startswith("No trials of bandit-k5-n10: no agent of recipe 'best' is in")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "bandit-k5-n10.safetensors").write_bytes(b"damaged")
    _, missing = record_all((Wanted("bandit-k5-n10", "best", 1),), tmp_path)
    assert "is damaged" in missing[0]
    with pytest.raises(ValueError, match=r"trials of mdp:.* cannot be shown"):
        record(Wanted("mdp-n10", "best-scratch", 1))


# --- The page.


class Page(HTMLParser):
    """What a page asks for, and its elements that are clicked or looked at."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.unnamed, self.labels, self.open, self.ids = [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[k] for k in ("src", "href", "srcset", "xlink:href", "data") if k in attributes]
        in_label = "label" in self.open
        named = attributes.get("aria-label") or attributes.get("alt") or in_label
        if (tag in ("input", "select", "img") or attributes.get("role") in ("img", "group")) and not named:
            self.unnamed.append((tag, attributes))
        if tag in ("button", "a", "summary") and not named:
            self.unnamed.append((tag, attributes))  # until its text comes
        if tag not in ("meta", "link", "img", "source", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip() and self.unnamed and self.unnamed[-1][0] == self.open[-1]:
            self.unnamed.pop()


def test_the_page_loads_nothing_and_names_everything(results, bandits, mazes):
    report = build_report(results, [*bandits, *mazes], made=" 1.2.3")
    page = Page(report.html)
    assert report.left_out == []
    assert page.open == []
    assert page.unnamed == []
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\((?!['\"]?(?:#|data:|\$\{trial\.frames\}))|fetch\(|XMLHttpRequest", report.html)
    text = " ".join(re.sub(r"<[^>]*>", " ", report.html).split())
    for expected in (
        "6.650",
        "99.85",
        "Means over 77 tasks",
        "all &lt;good&gt;",
        "bandit, k=5, n=10, 5",
        "RL² (supervised)",
    ):
        assert expected in text, expected
    assert "Table 1, RL² (best): 99.8% of the limit, in 1 of 9 setups (k=5, n=10)" in text
    assert '<h2 id="table2"' not in report.html  # nothing on disk
    data = re.search(r'<script type="application/json" id="recordings">(.*?)</script>', report.html, re.DOTALL)[1]
    assert json.loads(data) == [*bandits, *mazes]


def test_data_cannot_end_its_element(results, bandits):
    assert "</script><b>" not in build_report(results, [{**bandits[0], "agent": "</script><b>"}]).html


def test_a_damaged_section_is_left_out_with_a_sentence(results, bandits):
    path = results / "table1" / "b.json"
    write_objects(path, [made_up_row("ucb1", 6.0), made_up_row("thompson", 6.0) | {"mean": "6.0"}])
    report = build_report(results, bandits)
    (sentence,) = report.left_out
    assert sentence.startswith("Table 1: total reward in a trial of n pulls, k Bernoulli arms is left out: --results: ")
    assert sentence.endswith("b.json, row 2: mean must be a finite number, got '6.0'.")
    assert "row 2: mean must be a finite number" in report.html
    assert "Arms (figure 2)" in report.html
    path.write_text("[")
    (results / "wang" / "bandits.svg").write_text("<svg><path></svg>")
    first, second = build_report(results, []).left_out
    assert "is not JSON" in first
    assert "bandits.svg is damaged" in second


@pytest.mark.parametrize(
    ("field", "value"),
    [("mean", float("nan")), ("standard_error", -1), ("num_tasks", "9"), ("reward_curve", [None]), ("agent", 3)],
)
def test_damaged_rows_are_named(tmp_path, field, value):
    (tmp_path / "x.json").write_text(json.dumps([made_up_row("greedy", 6.0) | {field: value}]))
    with pytest.raises(ValueError, match=rf"x\.json, row 1: {field} must be"):
        read_results(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be a folder with results, got"):
        require_results(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no rows"):
        build_report(tmp_path)


def test_markdown():
    text = "# T\n\n## A `b`\nlong\nline\n\n| x | y |\n|---|---:|\n| **1** | a_b |\n\n- *i* <j>\n![p](q.png)\n"
    html = markdown.to_html(text, 3, lambda description, file: f"[{description}|{file}]")
    assert html.startswith("<h3>A <code>b</code></h3><p>long line</p>")
    assert '<tr><th scope="row"><strong>1</strong></th><td>a_b</td></tr>' in html
    assert html.endswith("<ul><li><em>i</em> &lt;j&gt;</li></ul>[p|q.png]")
    with pytest.raises(ValueError, match="equally many cells"):
        markdown.to_html("| a | b |\n|---|---|\n| c |\n")
    assert readable_tasks("at mdp:s=10,a=5,t=10,n=25, 5") == "at tabular MDP, n=25, 5"


# --- The command.


def run(arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code or 0


def test_the_command_writes_the_page(results, bandits, monkeypatch, capsys):
    monkeypatch.setattr(recordings, "SHOWN", ())
    monkeypatch.setattr(recordings, "record_all", lambda progress: (bandits, ["No trials of x: gone."]))
    assert run(["report", "--results", results]) == 0
    out, errors = capsys.readouterr()
    assert f"written to {results / 'report.html'}" in out
    assert "No trials of x: gone." in errors
    assert "No trials of x: gone." in (results / "report.html").read_text()
    for wrong, words in (
        (["--results", results / "none"], "must be a folder with results"),
        (["--results", results, "--out", results / "r.pdf"], "--out must end in .html"),
        (["--results", results, "--out", results / "no" / "r.html"], "does not exist"),
    ):
        assert run(["report", *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


# --- In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.find() is None:
        pytest.skip("no Chromium on this machine")
    if sys.platform == "win32":
        pytest.skip("Chromium's pipe is driven through POSIX file descriptors")
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def file(tmp_path_factory, bandits, mazes):
    folder = write_results(tmp_path_factory.mktemp("results"))
    path = folder / "report.html"
    path.write_text(build_report(folder, [*bandits, *mazes]).html)
    return path


@pytest.fixture
def opened(browser, file):
    """The report in the browser, without a network; at the end nothing went wrong in it and nothing was asked for."""
    browser.events.clear()
    browser.open(file)
    yield browser
    kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event["method"] in kinds] == []
    asked = {e["params"]["request"]["url"][:5] for e in browser.events if e["method"] == "Network.requestWillBeSent"}
    assert asked <= {"file:", "data:"}


STEP = "Number(document.querySelector('#step').value)"
SAYS = "document.querySelector('#say').textContent"


def counts(page):
    return page.evaluate(
        "[...document.querySelectorAll('#arms li')].map(x => [Number(x.dataset.successes), Number(x.dataset.failures)])"
    )


def expected_counts(recording, steps):
    """Posterior counts of each arm, in closed form: Beta(1 + successes, 1 + failures)."""
    actions, rewards = (np.array(recording[k][:steps]) for k in ("actions", "rewards"))
    return [[int(rewards[actions == a].sum()), int((1 - rewards[actions == a]).sum())] for a in range(5)]


def test_buttons_keys_and_slider_move_the_player(opened, bandits):
    page, recording = opened, bandits[0]
    assert page.evaluate(SAYS).startswith("Pull 1 of 10: arm ")
    page.click("#forward")
    page.click("#forward")
    assert page.evaluate(STEP) == 2
    assert counts(page) == expected_counts(recording, 2)
    page.click("#back")
    assert page.evaluate(STEP) == 1
    page.evaluate("document.querySelector('.player').focus()")
    for key, step in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", 10), ("Home", 0)):
        page.press(key)
        assert page.evaluate(STEP) == step, key
        assert counts(page) == expected_counts(recording, step)
    page.evaluate("document.querySelector('#step').focus()")
    page.press("ArrowRight")
    assert page.evaluate(STEP) == 1  # one step on the slider itself, not two
    page.click("#step")
    assert page.evaluate(STEP) == 5
    action, shown = recording["actions"][5], recording["probabilities"][5]
    said = page.evaluate(SAYS)
    assert said.startswith(f"Pull 6 of 10: arm {action + 1}, chosen with probability {shown[action]:.3f}, ")
    assert f"Gittins would pull arm {recording['gittins'][5] + 1};" in said
    assert page.evaluate("document.querySelector('#arms .chosen b').textContent") == f"Arm {action + 1}"
    page.click("#last")
    assert page.evaluate(SAYS).startswith(f"The trial is over: {sum(recording['rewards']):.0f} of 10 pulls paid.")


def test_the_player_plays_and_pauses(opened):
    page = opened
    page.evaluate("document.querySelector('#speed').value = '30'")
    page.evaluate("document.querySelector('.player').focus()")
    page.press(" ")
    assert page.evaluate("document.querySelector('#say').ariaLive") == "off"
    page.wait(f"{STEP} >= 3")
    page.wait(f"{STEP} === 10 && document.querySelector('#play').textContent === 'Play'")  # it stops at the end
    assert page.evaluate("document.querySelector('#say').ariaLive") == "polite"
    page.evaluate("document.querySelector('#speed').value = '4'")
    page.click("#play")  # from the start again
    page.wait(f"{STEP} >= 1")
    page.press(" ")  # on the button that has the focus: pause, once
    stopped = page.evaluate(STEP)
    assert page.evaluate("document.querySelector('#play').textContent") == "Play"
    assert 1 <= stopped < 10
    page.evaluate("new Promise(done => setTimeout(done, 400))")
    assert page.evaluate(STEP) == stopped


def test_a_maze_is_shown_from_above_and_from_inside(opened, mazes):
    page, recording = opened, mazes[0]
    choose = "(x => {x.value = '2'; x.dispatchEvent(new Event('change'))})(document.querySelector('#trial'))"
    page.evaluate(choose)
    assert page.evaluate("[document.querySelector('#bandit').hidden, document.querySelector('#maze').hidden]") == [
        True,
        False,
    ]
    last = len(recording["actions"])
    assert page.evaluate("Number(document.querySelector('#step').max)") == last
    for step in (0, 1, 20):
        page.evaluate(
            f"(x => {{x.value = {step}; x.dispatchEvent(new Event('input'))}})(document.querySelector('#step'))"
        )
        place = page.evaluate("(({x, y}) => [Number(x), Number(y)])(document.querySelector('.map').dataset)")
        assert place == [recording["x"][step], recording["y"][step]]
        shown = page.evaluate("[...document.querySelectorAll('#choices .bar span')].map(x => Number(x.textContent))")
        np.testing.assert_allclose(shown, recording["probabilities"][step], atol=6e-4)
        # What is on the screen is the frame: its middle has the colour of the sheet's.
        box = "document.querySelector('.frame')"
        page.evaluate(f"{box}.scrollIntoView({{block: 'center'}})")
        x, y, width, height = page.evaluate(
            f"(r => [r.x + scrollX, r.y + scrollY, r.width, r.height])({box}.getBoundingClientRect())"
        )
        picture = page_picture(page, (x, y, width, height))
        line, column = divmod(step, recording["frames_across"])
        sheet = Image.open(io.BytesIO(base64.b64decode(recording["frames"].partition(",")[2]))).convert("RGB")
        frame = np.asarray(sheet.crop((column * 40, line * 30, column * 40 + 40, line * 30 + 30)), int)
        for row, cell in ((2, 2), (2, 37), (15, 20), (28, 5), (15, 4), (15, 35)):
            seen = picture[int((row + 0.5) * picture.shape[0] / 30), int((cell + 0.5) * picture.shape[1] / 40)]
            assert np.abs(seen - frame[row, cell]).max() <= 3, (step, row, cell)
    page.evaluate("document.querySelector('.player').focus()")
    page.press("End")
    assert page.evaluate(SAYS).startswith("The trial is over: episodes of ")


def page_picture(page, clip):
    result = page.call(
        "Page.captureScreenshot",
        clip={**dict(zip(("x", "y", "width", "height"), clip, strict=True)), "scale": 1},
        captureBeyondViewport=True,
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(result["data"]))).convert("RGB"), int)


def test_the_theme_follows_the_system_and_the_button(opened, file):
    browser, path = opened, file
    colour = "getComputedStyle(document.body).backgroundColor"
    axis = "getComputedStyle(document.querySelector('#table1 ~ figure svg text, #table1 ~ details svg text')).fill"
    browser.open(path, dark=True)
    dark, ink = browser.evaluate(colour), browser.evaluate(axis)
    browser.open(path, width=400, dark=False)
    light = browser.evaluate(colour)
    assert (dark, light) == ("rgb(20, 23, 31)", "rgb(255, 255, 255)")
    assert browser.evaluate("document.documentElement.scrollWidth") == 400  # nothing is cut off on a phone
    browser.click("#theme")
    assert browser.evaluate(colour) == dark
    assert browser.evaluate(axis) == ink  # figures change, too
    assert browser.evaluate("document.querySelector('#theme').textContent") == "Light theme"
    browser.open(path, dark=False)
    assert browser.evaluate(colour) == dark  # what was chosen is kept
    browser.click("#theme")
    assert browser.evaluate(colour) == light


def test_every_control_is_reached_and_named_in_the_browser(opened):
    """As assistive technology sees it: the accessibility tree has a name for everything that can be operated."""
    opened.call("Accessibility.enable")
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    operated = ("button", "combobox", "slider", "link", "DisclosureTriangle")
    named = [(n["role"]["value"], n["name"]["value"]) for n in nodes if n.get("role", {}).get("value") in operated]
    assert all(name for _, name in named)
    for wanted in (("slider", "Step"), ("button", "Play"), ("button", "One step forward"), ("combobox", "Trial")):
        assert wanted in named
    seen = set()
    opened.evaluate("document.querySelector('#theme').focus()")
    for _ in range(30):
        opened.press("Tab")
        seen.add(opened.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"player", "trial", "speed", "first", "back", "play", "forward", "last", "step"} <= seen
