"""Kinds of task: a new one changes nothing elsewhere, what they refer to is there, nobody else tells them apart."""

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import pytest

import rl2jax
from rl2jax import envs
from rl2jax.agents import ReferenceAgent, random_agent, reference_agents
from rl2jax.cli.options import TASK_HELP
from rl2jax.engines.base import find_engine
from rl2jax.envs import BanditParams, BernoulliBandit, TabularMDP, TaskDistribution, random_cartpole
from rl2jax.envs.bandit import BANDIT, BernoulliArms
from rl2jax.envs.maze import MazeNavigation
from rl2jax.envs.names import parse_task, read_name
from rl2jax.envs.tabular_mdp import MDP
from rl2jax.kinds import KINDS, Choice, Kind, all_kinds, find_kind, kind_of, load
from rl2jax.limits.base import KnownLimit, Limit
from rl2jax.results.compare import Contender, compare, known_agents
from rl2jax.results.limit_rows import limit_row
from rl2jax.results.pages.tables import readable_tasks, short
from rl2jax.results.rows import Row
from rl2jax.runs.shipped import agent_name
from rl2jax.training.presets import preset, preset_for
from rl2jax.training.recipes import stages

ROOT = Path(rl2jax.__file__).parent


# --- A kind that the package knows nothing of: its distribution, and what belongs to it.


@dataclass(frozen=True)
class Slots(BernoulliArms):
    """One arm pays with a probability, the others never: the first, or the last."""

    num_arms: int
    percent: float = 100.0
    side: str = "first"

    def sample_params(self, key):
        del key
        place = 0 if self.side == "first" else self.num_arms - 1
        return BanditParams(probs=jnp.where(jnp.arange(self.num_arms) == place, self.percent / 100, 0.0))


def knowing(env, num_episodes):
    """Pulls the arm that pays."""
    del num_episodes
    arm = jnp.asarray(0 if env.side == "first" else env.num_arms - 1, jnp.int32)
    return random_agent(None)._replace(step=lambda key, state, trial_obs: (state, arm, ()))


def one_stage(task):
    return preset_for(task, "cpu").replace({"slow_rl": "imitation", "imitation.teacher": task.kind.teacher})


def value(env, num_episodes, sample):
    del sample
    return Limit(num_episodes * env.percent / 100, num_episodes * env.percent / 100, 0.0, "by hand")


def first_arm(trial):
    del trial
    return lambda trajectory, params: jnp.mean(trajectory.action == 0)


SLOT_AGENTS = {
    "random": ReferenceAgent(lambda env, n: random_agent(env.action_space(None))),
    "knowing": ReferenceAgent(knowing),
}
SLOT_LIMIT = KnownLimit("slots:k=K", value, ("knowing",), lambda env: env.num_arms > 1)
SLOTS = Kind(
    "slots",
    Slots,
    {"k": "num_arms", "p": "percent", "last": Choice("side", ("first", "last"))},
    defaults={"k": 2},
    num_episodes=4,
    unspelled={"p": 100, "last": 0},
    words="slot machines",
    usual={"k": 2},
    aside=("p",),
    presets={"cpu": {"iterations": 7}},
    short_trials={"cpu": {"objective.discount": 0.5}},
    policy_minibatch_steps=40,
    teacher="knowing",
    recipes={"best": f"{__name__}:one_stage"},
    agents=f"{__name__}:SLOT_AGENTS",
    limit=f"{__name__}:SLOT_LIMIT",
    statistics={"first_arm": f"{__name__}:first_arm"},
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, "slots", f"{__name__}:SLOTS")


def test_its_name():
    task = parse_task("slots:n=3,last=1,p=50")
    assert (task.name, task.env, task.kind) == ("slots:k=2,p=50,last=1,n=3", Slots(2, 50, "last"), SLOTS)
    assert parse_task(task.name) == task
    assert (task.title, short(task.name)) == ("p=50, last=1, n=3", "p=50, last=1, n=3")
    assert readable_tasks(f"on {task.name}.") == "on slot machines, p=50, last=1, n=3."
    assert agent_name(task) == "slots-last1-n3"
    with pytest.raises(ValueError, match="last must be 0 or 1, got 2"):
        parse_task("slots:last=2")
    with pytest.raises(ValueError, match=r"one of bandit, .*, slots nor"):
        parse_task("slits:n=3")
    with pytest.raises(ValueError, match=r"plays mazes only, .* got Slots"):
        find_engine("vizdoom", parse_task("slots").env)


def test_its_presets_and_recipes():
    short_trial, long_trial = (preset_for(parse_task(f"slots:n={n}"), "cpu") for n in (20, 21))
    assert (short_trial.iterations, long_trial.iterations) == (7, 7)
    assert short_trial.objective.discount == 0.5 != long_trial.objective.discount
    assert short_trial.slow_rl.minibatch_trials == 5
    assert preset_for(parse_task("slots:n=20"), "paper") == preset("paper", "anything", 20)
    (stage,) = stages("best", parse_task("slots"))
    assert (stage.name, stage.config.slow_rl.teacher) == ("1-reinforcement", "knowing")
    with pytest.raises(
        ValueError, match="task of recipe best-scratch must be of kind bandit or mdp or maze, got 'slots"
    ):
        stages("best-scratch", parse_task("slots"))


def test_its_agents_limit_and_statistic():
    task = parse_task("slots:k=3")
    assert reference_agents(task.env) is SLOT_AGENTS
    assert list(known_agents(task)) == ["random", "knowing"]
    row = limit_row(task, 10, 0)
    assert (row.mean, row.method, row.best_policy, row.best_policy_mean) == (4.0, "by hand", "knowing", 4.0)
    with pytest.raises(ValueError, match=r"limits are known for bandit:.*, dependent:n=N and slots:k=K, got slots:k=1"):
        limit_row(parse_task("slots:k=1"), 10, 0)
    (row,) = compare(task, [Contender("knowing", knowing(task.env, 4), {})], 5, seed=0).rows
    assert row.statistics == {"first_arm": 1.0}
    assert row.to_json()["first_arm"] == 1.0
    assert Row.from_json(row.to_json()) == row


def test_help_names_every_kind():
    assert all(name in TASK_HELP for name in KINDS if name != "slots")  # made before this one


# --- Those of the package.


@pytest.mark.parametrize("name", KINDS)
def test_what_a_kind_refers_to_is_there(name):
    kind = find_kind(name)
    assert kind.name == name
    assert kind.words
    for reference in (kind.agents, kind.limit, kind.evaluation, kind.recording):
        assert not reference or load(reference)
    for references in (kind.recipes, kind.statistics):
        assert all(callable(load(reference)) for reference in references.values())
    assert not kind.teacher or kind.teacher in load(kind.agents)
    if kind.limit:
        assert load(kind.limit).best_known[-1] in load(kind.agents)
    assert set(kind.defaults) | set(kind.unspelled) | set(kind.usual) | set(kind.aside) <= set(kind.settings)
    assert parse_task(name).kind is kind
    if isinstance(kind.make, type):
        assert kind_of(parse_task(name).env) is kind


@pytest.mark.parametrize("name", KINDS)
def test_documentation_lists_every_kind_and_its_settings(name):
    docs = Path(__file__).parents[2] / "docs"
    (line,) = (
        line
        for line in (docs / "howto" / "tasks.md").read_text().splitlines()
        if f"| `{name}:" in line.replace(", ", "| ")
    )
    text = line + ((docs / "vision.md").read_text() if name == "maze" else "")
    assert [setting for setting in find_kind(name).settings if not re.search(rf"\b{setting}=", text)] == []


def test_the_kind_of_a_distribution_is_that_of_its_class():
    @dataclass(frozen=True)
    class Mine(BernoulliBandit):
        """Of the kind of what it derives from."""

    assert kind_of(Mine(3)) is BANDIT
    assert kind_of(TabularMDP()) is MDP
    assert list(reference_agents(random_cartpole())) == ["random"]
    assert kind_of(random_cartpole()).name == "custom"


def test_a_task_of_the_users_own_has_nothing():
    """By its name, which picks presets and recipes; agents and limits are those of the class."""
    task = parse_task("rl2jax.envs:TabularMDP,n=4")
    assert preset_for(task, "cpu") == preset("cpu", "custom", 4, 10) != preset("cpu", "mdp", 4, 10)
    assert (task.title, short(task.name)) == ("TabularMDP, n=4", "TabularMDP, n=4")
    longer = task.with_settings(n=9)
    assert (longer.name, longer.num_episodes, longer.env) == ("rl2jax.envs:TabularMDP,n=9", 9, task.env)
    assert "beb_true_prior" in known_agents(task)


@pytest.mark.parametrize(
    ("name", "changes", "changed"),
    [
        ("bandit:k=5,good=20,n=10", {"n": 100}, "bandit:k=5,good=20,n=100"),
        ("bandit:k=5,good=20,n=10", {"good": 100}, "bandit:k=5,n=10"),
        ("maze:size=9", {"size": 5}, "maze:size=5,t=1000,n=2"),
        ("restless", {"p": 80, "jump": 1}, "restless:t=100,low=2,high=20,jump=1,p=80,n=1"),
    ],
)
def test_settings_are_changed_without_a_name(name, changes, changed):
    assert parse_task(name).with_settings(**changes) == parse_task(changed)


def test_settings_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="task must be one with k= in its name, got 'mdp:s=10,a=5,t=10,n=10'"):
        parse_task("mdp").with_settings(k=3)
    with pytest.raises(ValueError, match=r"num_episodes \(n\) must be an integer >= 1, got 0"):
        parse_task("mdp").with_settings(n=0)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("bandit:k=5,j=3,n=10", "bandit", {"k": 5, "j": 3, "n": 10}),
        ("two-step:common=80", "two-step", {"common": 80}),
        ("no_such_module:x,n=2", "no_such_module:x", {"n": 2}),
    ],
)
def test_names_of_rows_are_read_and_nothing_is_made(name, kind, settings):
    found, read = read_name(name)
    assert (found.name, read) == (kind, settings)


# --- Nobody else tells kinds apart.

ELSEWHERE = ("envs", "agents", "limits", "kinds.py")
# Where only mazes are played, others are refused.
OF_MAZES = ("results/mazes.py", "engines/vizdoom/mazes.py")
DISTRIBUTIONS = {name for name, one in vars(envs).items() if inspect.isclass(one) and issubclass(one, TaskDistribution)}
DISTRIBUTIONS = (DISTRIBUTIONS | {MazeNavigation.__name__}) - {TaskDistribution.__name__}
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in ELSEWHERE and str(path.relative_to(ROOT)) not in OF_MAZES
]


def is_kind(node: ast.AST) -> bool:
    return ast.unparse(node).removesuffix(".name").endswith(".kind")


def told_apart(source: str) -> list[str]:
    """Expressions that compare a kind or its name, look it up, or ask for the class of a task distribution."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = {getattr(part, "id", getattr(part, "attr", None)) for part in ast.walk(node)}
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            in_table = any(ast.unparse(side) == "KINDS" for side in sides)
            found += [ast.unparse(node)] if any(map(is_kind, sides)) and not in_table else []
        elif isinstance(node, ast.Subscript):
            found += [ast.unparse(node)] if is_kind(node.slice) else []
        elif isinstance(node, ast.Call):
            asked = ast.unparse(node.func) == "isinstance" and names & DISTRIBUTIONS
            looked_up = ast.unparse(node.func).endswith(".get") and is_kind(node.args[0])
            found += [ast.unparse(node)] if asked or looked_up else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_kinds_are_not_told_apart(path):
    assert told_apart(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "task.kind == 'maze'",
        "run.task.kind.name != 'maze'",
        "task.kind in ('bandit', 'mdp')",
        "TABLE[task.kind]",
        "TABLE.get(task.kind.name, {})",
        "TABLE[task.kind.name]",
        "isinstance(task.env, BernoulliBandit)",
        "isinstance(env, (TabularMDP, envs.Harlow))",
    ],
)
def test_telling_them_apart_is_found(source):
    assert told_apart(source) == [source]


def test_the_table_is_in_the_order_of_the_papers():
    assert [kind.name for kind in all_kinds()][:3] == ["bandit", "mdp", "maze"]
