"""Numbers as printed in Duan et al. 2016; 1000 tasks each, no standard errors given."""

from collections.abc import Mapping
from typing import NamedTuple


class PublishedTable(NamedTuple):
    """A table of the paper.

    Attributes:
      title: what it shows.
      columns: agent's name here -> its heading in the paper, in the paper's order; "rl2" is the trained one.
      scores: task's name -> agent's name -> mean total reward in a trial.
      lower, upper: agents whose scores are 0 and 1 in the normalised learning curves.
      figure: number of the figure that shows these.
    """

    title: str
    columns: dict[str, str]
    scores: dict[str, dict[str, float]]
    lower: str
    upper: str
    figure: int


PUBLISHED_TASKS = 1000
# Trained by recipes beyond the paper's (recipes.py): columns of their own, never mixed with "rl2".
RECIPE_COLUMNS = {
    "rl2_paper": "RL² (paper's recipe)",
    "rl2_best_scratch": "RL² (best-scratch)",
    "rl2_best": "RL² (best)",
}
TRAINED = ("rl2", *RECIPE_COLUMNS)
PAPERS_BATCH = 250_000
"""Time steps in a batch, in bandits and tabular MDPs (the paper's table 4)."""


def _rows(columns: dict[str, str], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {task: dict(zip(columns, scores, strict=True)) for task, scores in rows.items()}


_BANDIT_COLUMNS = {
    "random": "Random",
    "gittins": "Gittins",
    "thompson": "TS",
    "optimistic_thompson": "OTS",
    "ucb1": "UCB1",
    "eps_greedy": "ε-Greedy",
    "greedy": "Greedy",
    "rl2": "RL²",
}
_BANDITS = {
    "bandit:k=5,n=10": (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6, 6.7),
    "bandit:k=10,n=10": (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6, 6.7),
    "bandit:k=50,n=10": (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5, 6.8),
    "bandit:k=5,n=100": (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8, 78.7),
    "bandit:k=10,n=100": (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1, 83.5),
    "bandit:k=50,n=100": (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0, 84.9),
    "bandit:k=5,n=500": (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6, 401.6),
    "bandit:k=10,n=500": (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0, 432.5),
    "bandit:k=50,n=500": (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8, 438.9),
}

_MDP_COLUMNS = {
    "random": "Random",
    "psrl": "PSRL",
    "opsrl": "OPSRL",
    "ucrl2": "UCRL2",
    "beb": "BEB",
    "eps_greedy": "ε-Greedy",
    "greedy": "Greedy",
    "rl2": "RL²",
}
_MDPS = {
    "mdp:s=10,a=5,t=10,n=10": (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8, 156.2),
    "mdp:s=10,a=5,t=10,n=25": (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8, 445.7),
    "mdp:s=10,a=5,t=10,n=50": (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3, 936.1),
    "mdp:s=10,a=5,t=10,n=75": (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9, 1428.8),
    "mdp:s=10,a=5,t=10,n=100": (999.4, 1939.5, 1973.9, 1942.1, 1935.1, 1778.2, 1578.5, 1913.7),
}

SCORES = {
    1: PublishedTable(
        "Table 1: total reward in a trial of n pulls, k Bernoulli arms",
        _BANDIT_COLUMNS,
        _rows(_BANDIT_COLUMNS, _BANDITS),
        lower="random",
        upper="gittins",
        figure=2,
    ),
    2: PublishedTable(
        "Table 2: total reward in a trial of n episodes, random tabular MDPs",
        _MDP_COLUMNS,
        _rows(_MDP_COLUMNS, _MDPS),
        lower="random",
        upper="opsrl",
        figure=3,
    ),
}


class PublishedMazes(NamedTuple):
    """What is published of an agent in one size of maze, by episode.

    Attributes:
      success_length: mean length of the trajectories that reach the target (Table 3a), and its error.
      success_percent: Table 3b; empty where it is not published.
      improved_percent: Table 3c, mazes where the second episode is no longer than the first; None where not published.
    """

    success_length: tuple[tuple[float, float | None], ...]
    success_percent: tuple[float, ...] = ()
    improved_percent: float | None = None


# Task -> agent -> Table 3, of the best of the paper's runs. The second small share of successes is 99.5 in one copy of
# its text and 99.6 in another; SNAIL (Mishra et al. 2018) gives mean lengths of two episodes.
MAZES: dict[str, dict[str, PublishedMazes]] = {
    "maze:size=5,t=250,n=5": {
        "rl2": PublishedMazes(
            ((52.4, 1.3), (39.1, 0.9), (42.6, 1.0), (43.5, 1.1), (43.9, 1.1)), (99.3, 99.5, 99.7, 99.4, 99.6), 91.7
        ),
        "snail": PublishedMazes(((50.3, None), (34.8, None))),
    },
    "maze:size=9,t=1000,n=5": {
        "rl2": PublishedMazes(
            ((180.1, 6.0), (151.8, 5.9), (169.3, 6.3), (162.3, 6.4), (169.3, 6.5)),
            (97.1, 96.7, 95.8, 95.6, 96.1),
            71.4,
        ),
        "snail": PublishedMazes(((140.5, None), (105.9, None))),
    },
}
PUBLISHED_MAZE_NAMES = {"rl2": "RL² (Duan et al. 2016)", "snail": "SNAIL (Mishra et al. 2018)"}

# (start of a task's name, end of it, agent) -> why our score differs.
_CAUSES: dict[tuple[str, str, str], str] = {
    ("bandit:k=50", "n=100", "ucb1"): (
        "a finer grid: scaling 0.1 scores 83.67 and 0.15 scores 85.17 on tuning tasks, the paper's 84.3 lies between; "
        "its grid is not stated"
    ),
    ("bandit:k=10", "n=500", "greedy"): (
        "none found: nothing is tuned, and Greedy agrees within 2 errors in the other eight cells; "
        "all published scores of this line are below ours, Random's too, as if its 1000 tasks were poor ones"
    ),
}


# Agents that the paper's tables do not have, as the literature calls them.
_NAMES = {
    "gittins_finite_horizon": "Gittins, finite horizon",
    "gittins_whittle": "Gittins by Whittle's index",
    "gittins_brezzi_lai": "Gittins by Brezzi and Lai's",
    "bayes_optimal": "Bayes-optimal",
    "may_optimistic_thompson": "OTS of May et al.",
    "imitation": "RL² (supervised)",
    "ucb1_tuned": "UCB1, tuned",
    "rescorla_wagner": "Rescorla-Wagner",
    "bayes_filter": "Bayes filter",
    "discounted_ucb": "discounted UCB",
    "ucb": "UCB",
}
_VARIANTS = {"_true_prior": ", true prior", "_random_ties": ", random ties"}


def agent_name(agent: str) -> str:
    """An agent's heading in the paper's tables, or, of one that they do not have, its name as words."""
    for ending, words in _VARIANTS.items():
        if agent.endswith(ending):
            return agent_name(agent.removesuffix(ending)) + words
    for names in (*(table.columns for table in SCORES.values()), RECIPE_COLUMNS, _NAMES):
        if agent in names:
            return names[agent]
    return agent.replace("_", " ")


def explanation(task: str, agent: str) -> str:
    """Why a reference agent's score differs from the published one, where that is known; else "unexplained"."""
    for (start, end, name), cause in _CAUSES.items():
        if agent == name and task.startswith(start) and task.endswith(end):
            return cause
    return "unexplained"
