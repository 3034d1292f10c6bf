"""Agents as files: what is written is what is loaded, bit for bit, and nothing else is ever loaded."""

import json
import shlex
import shutil
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import jax
import numpy as np
import pytest
from command import refused
from command import run as command
from safetensors.numpy import load, save
from untrained import CONFIG, ROW, TASK, untrained_run

import rl2jax
from rl2jax.envs import BernoulliBandit, TabularMDP
from rl2jax.envs.names import parse_task
from rl2jax.results.compare import compare, run_contender, shipped_contender
from rl2jax.results.rows import EvaluationRow, opponents, write_objects
from rl2jax.runs import shipped
from rl2jax.runs.run import ancestry, create_run, described, load_state, open_run, parameters_digest
from rl2jax.runs.shipped import ShippedAgentError, UnfitError, describe, list_agents, load_agent, ship, start_of_agent
from rl2jax.settings import InputError
from rl2jax.training import recipes
from rl2jax.training.presets import preset_for
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

NAME = "bandit-k2-n4"
BYTES_ALLOWED = 25e6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """A folder with one agent, not to be changed."""
    folder = tmp_path_factory.mktemp("written")
    ship(run, "best", ROW, folder)
    return folder


def test_a_training_starts_from_it(run, written, tmp_path):
    """With its parameters, a baseline of its own, and the trainings that led to it."""
    start = start_of_agent(NAME, folder=written)
    begun = create_run(tmp_path / "run", TASK, CONFIG, seed=0, start=start)
    state = load_state(begun)
    fresh = begun.learner.init(jax.random.key(0))
    assert parameters_digest(state.params["policy"]) == describe(NAME, folder=written).parameters_sha256
    assert parameters_digest(state.params["baseline"]) == parameters_digest(fresh.params["baseline"])
    assert ancestry(begun) == [described(run)]


def test_what_a_training_cannot_start_from_is_named(tmp_path, capsys):
    out = ["--preset", "quick", "--out", str(tmp_path / "run")]
    for start, part in {
        "best/bandit-k5-n10": "here; it has --set network.units=128",
        "best/bandit-k7-n10": "one of bandit-k5-n10",
        "best": "best holds no run",
    }.items():
        refused(capsys, ["train", "bandit:k=5,n=10", "--set", "network.units=64", "--start", start, *out], part)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(written, tmp_path / "agents")


@pytest.fixture
def path(folder):
    return folder / "best" / f"{NAME}.safetensors"


@pytest.fixture
def package(folder, monkeypatch):
    """The same in place of the package's own agents."""
    monkeypatch.setattr(shipped, "FOLDER", folder)
    return folder


def plays(agent):
    """Actions and log probabilities of 40 trials."""

    def play(key):
        key_task, key_rollout = jax.random.split(key)
        return rollout(key_rollout, agent, Trial(TASK.env, 4), TASK.env.sample_params(key_task))

    played = jax.vmap(play)(jax.random.split(jax.random.key(5), 40))
    return np.asarray(played.action), np.asarray(played.agent_info.log_prob)


# --- What is written is what is loaded.


@pytest.mark.parametrize("action_selection", ["sample", "mode"])
def test_it_plays_as_the_run_does(run, folder, action_selection):
    ship(run, "paper", ROW | {"action_selection": action_selection}, folder)
    params = load_state(run).params["policy"]
    wanted = plays(run.learner.networks.agent(params, deterministic=action_selection == "mode"))
    for found, same in zip(plays(load_agent(NAME, "paper", folder)), wanted, strict=True):
        np.testing.assert_array_equal(found, same)
    assert len(np.unique(wanted[1])) > 2  # it acts on what it sees


def test_one_line(package):
    actions, _ = plays(rl2jax.load_agent("bandit-k2-n4"))
    assert actions.shape == (40, 4)


def test_what_is_known_of_it(run, written):
    agent = describe(NAME, "best", written)
    assert (agent.task, agent.recipe, agent.action_selection) == (TASK.name, "best", "sample")
    assert agent.config == CONFIG
    assert agent.parameters_sha256 == parameters_digest(load_state(run).params["policy"])
    assert agent.evaluation == {k: ROW[k] for k in ROW if k not in ("task", "iteration", "action_selection")}
    (stage,) = agent.stages
    assert (stage["task"], stage["algorithm"], stage["seed"], stage["iterations"]) == (TASK.name, "ppo", 7, 3)
    assert (stage["jax"], stage["preset"]) == (jax.__version__, None)
    assert stage["environment_steps"] == agent.environment_steps == 3 * 40
    assert agent.num_bytes == (written / "best" / f"{NAME}.safetensors").stat().st_size


def test_every_training_that_led_to_it_is_named(run, tmp_path):
    longer = parse_task("bandit:k=2,n=6")
    second = untrained_run(
        tmp_path / "run", longer, CONFIG.replace({"trial.num_episodes": 6, "batch.size": 60}), start=run
    )
    ship(second, "best", ROW | {"task": longer.name}, tmp_path)
    agent = describe("bandit-k2-n6", folder=tmp_path)
    assert [stage["task"] for stage in agent.stages] == [TASK.name, longer.name]
    assert [stage["environment_steps"] for stage in agent.stages] == [3 * 40, 3 * 60]
    digests = [parameters_digest(load_state(r).params["policy"]) for r in (run, second)]
    assert [stage["parameters_sha256"] for stage in agent.stages] == digests
    assert agent.parameters_sha256 == digests[1]


def test_presets_and_stages_of_recipes_are_recognised():
    def stage(recipe, config):
        description = {"task": TASK.name, "config": config.to_json(), "iteration": 150, "seed": 0, "commit": None}
        return shipped._stage(TASK, recipe, description | {"jax": "", "parameters_sha256": ""})

    quick = stage("paper", preset_for(TASK, "quick"))
    assert (quick["preset"], quick["environment_steps"]) == ("quick", 150 * 10_000)
    for part in recipes.stages("best", TASK):
        assert stage("best", part.config)["preset"] == f"best/{part.name}"
        assert stage("paper", part.config)["preset"] is None


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("bandit:k=5,n=10", "bandit-k5-n10"),
        ("mdp:n=10", "mdp-n10"),
        ("mdp:s=5,n=100", "mdp-s5-a5-t10-n100"),
        ("mdp:s=10,a=5,t=100,n=10", "mdp-s10-a5-t100-n10"),
        ("maze:size=5,more=20000", "maze-size5-t250-n2"),
    ],
)
def test_names(task, name):
    assert shipped.agent_name(parse_task(task)) == name


def test_the_same_run_gives_the_same_bytes(run, path):
    before = path.read_bytes()
    ship(run, "best", ROW, path.parent.parent)
    assert path.read_bytes() == before


def test_other_programs_can_read_it(path):
    arrays = load(path.read_bytes())
    assert arrays["params.gru_hidden"].shape == (4, 12)
    assert all(name.startswith("params.") for name in arrays)


# --- Elsewhere than in training.


@pytest.fixture(scope="module")
def of_networks(tmp_path_factory):
    """A folder with agents whose parameters fit tasks of other sizes; and the run of the first."""
    folder = tmp_path_factory.mktemp("networks")
    small = CONFIG.replace({"batch.size": 80, "network.units": 12, "objective.task_inference_coefficient": 0.0})
    for task, network in {"bandit:k=2,n=4": "per_arm", "mdp:s=3,a=2,t=2,n=4": "per_pair"}.items():
        parsed = parse_task(task)
        config = small.replace({"network": network, "trial.num_episodes": parsed.num_episodes})
        ship(untrained_run(folder / network, parsed, config), "best", ROW | {"task": task}, folder)
    return folder


def logits(agent, trial_obs):
    """Of every step, whatever it does itself; [num_steps, num_actions]."""

    def step(state, trial_obs):
        state, _, info = agent.step(jax.random.key(0), state, trial_obs)
        return state, info.dist_params

    return np.asarray(jax.lax.scan(step, agent.init(jax.random.key(0)), trial_obs)[1])


def test_on_more_arms_it_permutes_with_them(of_networks):
    """What it says of an arm depends on what happened there, not on the arm's number."""
    agent = load_agent(NAME, folder=of_networks, env=BernoulliBandit(4))
    steps = 5
    action, reward = np.array([0, 3, 1, 3, 0]), np.array([0, 1, 0, 1, 1], np.float32)
    seen = TrialObservation(np.zeros((steps, 1), np.float32), action, reward, np.ones(steps, np.float32))
    order = np.array([2, 0, 3, 1])  # arm order[i] is called i
    renamed = seen._replace(prev_action=np.argsort(order)[action])
    said = logits(agent, seen)
    assert said.shape == (steps, 4)
    assert len(np.unique(said[-1])) == 4  # one was never pulled; to each of the others something else happened
    np.testing.assert_array_equal(logits(agent, renamed), said[:, order])


def test_where_it_was_trained_nothing_changes(of_networks, written):
    """The same task distribution, named, gives the same moves bit for bit."""
    for folder in (of_networks, written):
        agents = (load_agent(NAME, folder=folder, env=env) for env in (None, BernoulliBandit(2)))
        for found, same in zip(*map(plays, agents), strict=True):
            np.testing.assert_array_equal(found, same)


def test_it_may_play_what_its_parameters_fit(of_networks):
    name, larger = "mdp-s3-a2-t2-n4", TabularMDP(4, 3, 5)
    agent = load_agent(name, folder=of_networks, env=larger)
    played = rollout(jax.random.key(0), agent, Trial(larger, 2), larger.sample_params(jax.random.key(1)))
    assert played.agent_info.dist_params.shape == (10, 3)
    with pytest.raises(UnfitError, match=rf"^{name} \(recipe best\) does not fit BernoulliBandit.*Discrete"):
        load_agent(name, folder=of_networks, env=BernoulliBandit(2))


def test_what_does_not_fit_is_refused(written):
    """A ValueError that names agent, task distribution, and what stands in the way."""
    actions = "one input and one output for each of 2 actions, not of 3"
    with pytest.raises(
        ValueError, match=rf"^{NAME} \(recipe best\) does not fit BernoulliBandit\(num_arms=3.*{actions}"
    ):
        load_agent(NAME, folder=written, env=BernoulliBandit(3))
    with pytest.raises(UnfitError, match=r"params\.\w+ is float32\[.*\], there it would be float32\["):
        load_agent(NAME, folder=written, env=TabularMDP(3, 2, 2))
    with pytest.raises(UnfitError, match=r"task_inference_coefficient must be 0 for"):
        load_agent(NAME, folder=written, env=parse_task("cartpole").env)


def test_a_contender_may_play_elsewhere(of_networks, run, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", of_networks)
    wider = parse_task("bandit:k=3,n=4")
    contender = shipped_contender("best", wider, TASK)
    assert contender.context["trained_on"] == TASK.name
    of_run = run_contender(open_run(of_networks / "per_arm"), wider, elsewhere=True)
    result = compare(wider, [contender, of_run], 50, seed=0)
    assert result.rows[0].mean == result.rows[1].mean  # they are the same agent
    assert len(result.rows[0].statistics["pull_frequencies"]) > 0
    with pytest.raises(UnfitError, match="each of 2 actions, not of 3"):
        run_contender(run, wider, elsewhere=True)


# --- Nothing else is ever loaded.


def test_a_changed_byte_is_noticed_wherever_it_is(folder, path):
    content = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            file.seek(position)
            file.write(bytes([byte ^ (0x01, 0x20, 0x80)[position % 3]]))  # 0x20 changes the case of letters
            with pytest.raises(ShippedAgentError, match=NAME):
                describe(NAME, folder=folder)
            file.seek(position)
            file.write(bytes([byte]))
    describe(NAME, folder=folder)  # as it was


def test_the_digest_itself_is_compared_strictly(folder, path):
    content = path.read_bytes()
    digest = shipped._verified(path)[0]["file_sha256"].encode()
    path.write_bytes(content.replace(digest, digest.upper()))
    with pytest.raises(ShippedAgentError, match="damaged"):
        load_agent(NAME, folder=folder)


def test_a_truncated_or_longer_file_is_noticed(folder, path):
    content = path.read_bytes()
    for changed in [*(content[:length] for length in range(0, len(content), 13)), content[:-1], content + b"\0"]:
        path.write_bytes(changed)
        with pytest.raises(ShippedAgentError, match="damaged"):
            load_agent(NAME, folder=folder)


@pytest.mark.parametrize(
    "content",
    [
        b"a thesis",
        b"[" * 100_000,
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
        save({"x": np.zeros(3, np.float32)}),
        save({"x": np.zeros(3, np.float32)}, {"rl2jax": "[]"}),
        save({"x": np.zeros(3, np.float32)}, {"rl2jax": '{"format": 1}'}),
        save({"x": np.zeros(3, np.float32)}, {"rl2jax": '{"format": 1, "file_sha256": "\\ud800"}'}),
    ],
)
def test_other_files_are_refused(folder, path, content):
    path.write_bytes(content)
    with pytest.raises(ShippedAgentError, match=r"damaged.*rl2jax ship"):
        load_agent(NAME, folder=folder)


def rewrite(path, arrays=None, **changes):
    """Writes a file anew with other contents and a digest that fits."""
    description, content = shipped._verified(path)
    arrays = load(content) | (arrays or {})
    path.write_bytes(shipped._pack(arrays, description | {"file_sha256": shipped._NO_DIGEST} | changes))


def test_another_format_is_refused(folder, path):
    rewrite(path, format=2)
    with pytest.raises(ShippedAgentError, match="format 2, this version of rl2jax reads 1: install"):
        load_agent(NAME, folder=folder)


def test_arrays_must_fit_the_config(folder, path):
    rewrite(path, {"params.gru_bias": np.zeros(15, np.float32)})
    with pytest.raises(ShippedAgentError, match=r"params.gru_bias is float32\[15\].*make it float32\[12\]"):
        load_agent(NAME, folder=folder)
    rewrite(path, {"params.gru_bias": np.zeros(12, np.float64)})
    with pytest.raises(ShippedAgentError, match=r"params.gru_bias is float64\[12\]"):
        load_agent(NAME, folder=folder)
    rewrite(path, {"params.gru_bias": np.zeros(12, np.float32), "extra": np.zeros(1)})
    with pytest.raises(ShippedAgentError, match=r"extra is float64.*make it absent"):
        load_agent(NAME, folder=folder)


def test_parameters_must_be_those_that_were_evaluated(folder, path):
    rewrite(path, {"params.gru_bias": np.full(12, 0.5, np.float32)})
    with pytest.raises(ShippedAgentError, match="other parameters"):
        load_agent(NAME, folder=folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "antigravity:fly,n=4"}, "one of bandit"),
        ({"task": "bandit:k=2,colour=3"}, "colour"),
        ({"task": 5}, "another version"),
        ({"config": CONFIG.to_json() | {"colour": 3}}, "colour"),
        ({"action_selection": "best"}, "sample or mode"),
        ({"recipe": "paper"}, "move it to paper/"),
        ({"task": "bandit:k=3,n=4"}, "move it to best/bandit-k3-n4.safetensors"),
    ],
)
def test_what_it_says_must_make_sense(folder, path, changes, text):
    rewrite(path, **changes)
    with pytest.raises(ShippedAgentError, match=text):
        load_agent(NAME, folder=folder)


def test_unknown_names_list_what_there_is(written):
    with pytest.raises(ValueError, match=f"name, with recipe 'best', must be one of {NAME}, got 'bandit-k5'"):
        load_agent("bandit-k5", folder=written)
    with pytest.raises(ValueError, match="recipe must be one of best, best-scratch, paper, got 'worst'"):
        load_agent(NAME, "worst", written)
    with pytest.raises(ValueError, match=r"no agent of recipe 'paper' is in .*rl2jax agents"):
        load_agent(NAME, "paper", written)
    with pytest.raises(ValueError, match="must be one of"):
        load_agent(f"../best/{NAME}", folder=written)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"iteration": 2}, "row: iteration must be 3, where the run stands, got 2"),
        ({"task": "bandit:k=3,n=4"}, "row: task"),
        ({"action_selection": "greedy"}, "sample or mode"),
        ({"standard_error": None}, "at least 2 tasks"),
        ({"mean": float("nan")}, "row: mean"),
    ],
)
def test_a_row_of_another_policy_is_not_shipped(run, tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        ship(run, "best", ROW | changes, tmp_path)
    with pytest.raises(ValueError, match="one without mean, command"):
        ship(run, "best", {k: v for k, v in ROW.items() if k not in ("mean", "command")}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_users_would_play_wrongly_is_not_shipped(run, tmp_path):
    with pytest.raises(ValueError, match="first_step_flag must be 0"):
        ship(run._replace(config=CONFIG.replace({"trial.first_step_flag": 1.0})), "best", ROW, tmp_path)
    custom = parse_task("rl2jax.envs:random_cartpole,n=4")
    with pytest.raises(ValueError, match="task must be one of bandit"):
        ship(run._replace(task=custom), "best", ROW, tmp_path)
    with pytest.raises(ValueError, match="recipe must be one of"):
        ship(run, "worst", ROW, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can be written"):
        ship(run, "best", ROW, tmp_path / "file")


# --- The package's own.


def check_agents(folder):
    """All agents of a folder load, nothing else lies there, and together they are small."""
    files = {path for path in folder.rglob("*") if path.is_file()}
    agents = list_agents(folder)
    assert files == {folder / a.recipe / f"{a.name}.safetensors" for a in agents}
    assert sum(agent.num_bytes for agent in agents) < BYTES_ALLOWED
    for agent in agents:
        assert agent.config.trial.first_step_flag == 0
        assert agent.evaluation["command"].startswith(f"rl2jax compare {agent.task} ")
        load_agent(agent.name, agent.recipe, folder)
    return agents


def test_the_packages_agents_load_and_are_small():
    check_agents(shipped.FOLDER)


def test_that_check_can_fail(run, folder, monkeypatch):
    ship(run, "best", ROW | {"command": f"rl2jax compare {TASK.name} --seed 3"}, folder)
    assert [agent.name for agent in check_agents(folder)] == [NAME]
    monkeypatch.setitem(globals(), "BYTES_ALLOWED", 1000)
    with pytest.raises(AssertionError):
        check_agents(folder)
    monkeypatch.undo()
    (folder / "best" / "notes.txt").write_text("")
    with pytest.raises(AssertionError):
        check_agents(folder)


def test_the_wheel_carries_them():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["rl2jax"]
    file = shipped.FOLDER.relative_to(Path(shipped.__file__).parents[1]) / "best" / f"{NAME}.safetensors"
    assert any(fnmatch(str(file), pattern) for pattern in patterns)


def test_they_are_listed_as_people_count(tmp_path):
    listed = [("bandit-k5-n10", "best"), ("bandit-k5-n10", "paper"), ("bandit-k5-n100", "best")]
    listed += [("bandit-k10-n10", "best-scratch"), ("mdp-n25", "paper")]
    for name, recipe in listed:
        (tmp_path / recipe).mkdir(exist_ok=True)
        (tmp_path / recipe / f"{name}.safetensors").touch()
    assert shipped._listed(tmp_path) == listed
    assert list_agents(tmp_path / "nothing") == []


# --- From the shell.


def test_a_run_is_shipped_listed_and_compared(run, package, tmp_path, capsys):
    common = {"task": TASK.name, "num_tasks": 9, "seed": 1, "standard_error": None}
    bound = {"exact": 4.0, "upper_bound": 4.0, "upper_bound_standard_error": 0.0, "method": "dynamic programming"}
    best = {"best_policy": "random", "best_policy_mean": 2.0, "best_policy_standard_error": None}
    rows = [common | {"agent": "random", "mean": 2.0}]
    rows += [common | {"agent": "rl2", "mean": 4.0, "trained_on": TASK.name}]
    rows += [common | {"agent": "limit", "mean": 4.0, **bound, **best}]
    (tmp_path / "rows").mkdir()
    write_objects(tmp_path / "rows" / "cell.json", rows)
    options = ["--recipe", "best-scratch", "--num-tasks", 400, "--seed", 3, "--results", tmp_path / "rows"]
    assert command(["ship", run.folder, *options]) == 0
    assert "best-scratch" in capsys.readouterr().out
    agent = describe(NAME, "best-scratch")
    assert agent.evaluation["command"] == f'rl2jax compare {TASK.name} --num-tasks 400 --seed 3 --agents "" ' + (
        "--shipped best-scratch"
    )

    assert command(["agents"]) == 0
    *lines, legend = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[NAME, "best"], [NAME, "best-scratch"]]
    mean = agent.evaluation["mean"]
    assert f"{100 * mean / 2:.2f}% of random, {100 * mean / 4:.2f}% of the limit (dynamic programming)" in lines[1]
    assert "120 steps" in lines[1]
    assert "load_agent" in legend

    file = tmp_path / "row.json"
    assert command([*shlex.split(agent.evaluation["command"])[1:], "--json", file]) == 0
    (row,) = json.loads(file.read_text())
    assert row["mean"] == agent.evaluation["mean"]
    assert row["command"] == agent.evaluation["command"]
    assert (row["agent"], row["recipe"], row["action_selection"]) == ("rl2_best_scratch", "best-scratch", "sample")
    assert row["parameters_sha256"] == agent.parameters_sha256
    assert row["training"][0]["environment_steps"] == 120


def test_a_greedy_agent_is_shipped_as_such(run, tmp_path, capsys):
    assert (
        command(["ship", run.folder, "--recipe", "paper", "--num-tasks", 50, "--deterministic", "--out", tmp_path]) == 0
    )
    assert describe(NAME, "paper", tmp_path).action_selection == "mode"
    assert command(["agents", "--folder", tmp_path]) == 0
    assert NAME in capsys.readouterr().out


def test_a_comparison_names_what_was_shipped(package):
    contender = shipped_contender("best", TASK)
    assert (contender.name, contender.first_step_flag) == ("rl2_best", 0.0)
    result = compare(TASK, [contender], 20, seed=0)
    assert result.rows[0].command.endswith('--agents "" --shipped best')


def test_the_shell_says_what_is_wrong(run, package, path, tmp_path, capsys):
    refused(capsys, ["compare", TASK.name, "--agents", "", "--shipped", "worst"], "recipe", "worst", "best-scratch")
    refused(capsys, ["compare", "bandit:k=3,n=4", "--agents", "", "--shipped", "best"], "bandit-k3-n4", NAME)
    refused(capsys, ["ship", run.folder, "--recipe", "worst"], "recipe", "worst", "best-scratch")
    refused(capsys, ["ship", run.folder, "--recipe", "best", "--num-tasks", 1], "--num-tasks", "1")
    refused(capsys, ["ship", tmp_path, "--recipe", "best"], "holds no run")
    refused(capsys, ["ship", run.folder, "--recipe", "best", "--results", tmp_path / "no"], "--results")
    refused(capsys, ["agents", "--folder", tmp_path / "no"], "--folder")
    path.write_bytes(path.read_bytes()[:-1])
    refused(capsys, ["agents"], "damaged", NAME)
    shutil.rmtree(package)
    assert command(["agents"]) == 0
    assert "no agents in" in capsys.readouterr().out


def test_opponents_are_the_best_untrained_agent_and_the_limit():
    def row(task, agent, mean, **more):
        return EvaluationRow(task=task, agent=agent, num_tasks=9, seed=0, mean=mean, standard_error=0.1, **more)

    rows = [row("a", "gittins", 3.0), row("a", "ucb1", 2.0), row("b", "gittins", 9.0)]
    rows.append(row("a", "rl2", 5.0, trained_on="a"))
    assert opponents(rows, "a") == {"best_reference": {"agent": "gittins", "mean": 3.0}}
    assert opponents(rows, "c") == {}


def test_a_folder_may_be_a_text(run, tmp_path):
    ship(run, "best", ROW, str(tmp_path / "agents"))
    assert load_agent(NAME, folder=str(tmp_path / "agents"))
    assert [agent.name for agent in list_agents(str(tmp_path / "agents"))] == [NAME]


def test_what_is_no_task_distribution_is_refused(written):
    with pytest.raises(ValueError, match=r"env must be a rl2jax.envs.TaskDistribution, got 'bandit'"):
        load_agent(NAME, folder=written, env="bandit")


@pytest.mark.parametrize("name", ["network", "slow_rl"])
def test_a_file_does_not_choose_the_code_that_runs(name):
    """A memory or update of one's own counts only where whoever loads the file has imported its module."""
    with pytest.raises(InputError, match=f"^{name} must be of a module that is imported: evil, got 'evil:Code'$"):
        shipped._require_imported({name: "evil:Code"})
    shipped._require_imported({name: "json:dumps"})  # imported by this test's own imports
