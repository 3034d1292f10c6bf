"""Tables, figures and the page: built from rows on disk alone, checked cell by cell."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from rl2jax.results import evaluations
from rl2jax.results.pages import figures
from rl2jax.results.pages.deviations import deviations, deviations_markdown
from rl2jax.results.pages.page import build_page
from rl2jax.results.pages.papers import TABLES, build_table
from rl2jax.results.pages.tables import FewerTasks, short
from rl2jax.results.pages.text import to_csv, to_latex, to_markdown
from rl2jax.results.published import MAZES, SCORES
from rl2jax.results.rows import EvaluationRow, LimitRow, documented, read_results, write_objects, write_rows

TASK, OTHER = "bandit:k=5,n=10", "bandit:k=50,n=100"


def row(agent, mean, task=TASK, **more):
    pulls = int(task.rpartition("=")[2])
    arms = min(10, int(task.partition("k=")[2].partition(",")[0] or 1))
    curve = [mean / pulls] * pulls
    shares = np.full((min(pulls, 25), arms), 1 / arms).tolist()
    base = {"task": task, "agent": agent, "hyperparameters": {}, "num_tasks": 1000, "seed": 0, "mean": mean}
    base |= {
        "standard_error": 0.0123,
        "reward_curve": curve,
        "statistics": {"pull_frequencies": shares},
        "commit": "abc",
    }
    return EvaluationRow(**(base | {"protocol": "large", "significantly_better": []} | more))


def limit(mean, task=TASK, **more):
    base = {"task": task, "agent": "limit", "num_tasks": 1000, "seed": 0, "mean": mean, "standard_error": None}
    base |= {"exact": mean, "upper_bound": mean, "upper_bound_standard_error": 0.0, "method": "dynamic programming"}
    base |= {"best_policy": "bayes_optimal", "best_policy_mean": mean, "best_policy_standard_error": 0.01}
    return LimitRow(**(base | more))


ROWS = [
    row("random", 5.0, significantly_better=["rl2", "bayes_optimal", "gittins"]),
    row("gittins", 6.5, significantly_better=["rl2", "bayes_optimal"]),
    row("rl2", 6.634, preset="cpu", training_seed=0, command="rl2jax <train>", significantly_better=["bayes_optimal"]),
    row("bayes_optimal", 6.66),
    limit(6.65999),
    row("random", 49.8, OTHER, significantly_better=["ucb1", "gittins"]),
    row("gittins", 84.0, OTHER, num_tasks=500, significantly_better=["ucb1"]),
    row("ucb1", 84.3, OTHER),
]
CURVES = [
    row("rl2", 6.6, training_seed=s, learning_curve={"iteration": [1, 2, 3], "mean_return": [5.0, 6.0, 6.5 + s / 10]})
    for s in (1, 2)
]


# --- Rows.


def test_rows_are_read_from_every_file_but_tests(tmp_path):
    write_rows(tmp_path / "a.json", ROWS[:2])
    write_objects(tmp_path / "a.tests.json", [{"better": "a", "worse": "b"}])
    write_rows(tmp_path / "b.json", ROWS[2:])
    (tmp_path / "other.json").write_text('{"not": "a list"}')
    assert read_results(tmp_path) == ROWS
    for broken in (b"[", b"[" * 100_000, b"\xff"):
        (tmp_path / "broken.json").write_bytes(broken)
        with pytest.raises(ValueError, match=r"--results: .*broken\.json is not JSON"):
            read_results(tmp_path)
    with pytest.raises(ValueError, match="--results must be a folder"):
        read_results(tmp_path / "nowhere")


@pytest.mark.parametrize(("content", "message"), [("[]", "does not hold one row"), ("[", "is not JSON")])
def test_a_cells_damaged_row_is_named(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(evaluations, "train_cell", lambda *_, **__: None)
    (tmp_path / "row.json").write_text(content)
    settings = {"training_seed": 0, "num_tasks": 10, "seed": 1, "console": None}
    with pytest.raises(ValueError, match=rf"row\.json {message}.*move it away"):
        evaluations.run_cell(tmp_path, "bandit:k=2,n=4", "quick", **settings)


def test_the_row_over_most_tasks_counts_and_then_the_first_seed():
    few, many = row("rl2", 1.0, num_tasks=10, training_seed=0), row("rl2", 2.0, num_tasks=20, training_seed=3)
    later = row("rl2", 3.0, num_tasks=20, training_seed=4)
    assert documented([few, later, many])[TASK, "rl2"] is many


# --- The table.


def test_published_numbers_are_the_papers():
    """Corners of both tables, and that no cell is missing."""
    first, second = SCORES[1].scores, SCORES[2].scores
    assert first["bandit:k=5,n=10"]["random"] == 5.0
    assert first["bandit:k=50,n=500"] | {} == {
        "random": 249.6,
        "gittins": 463.7,
        "thompson": 427.2,
        "optimistic_thompson": 437.6,
        "ucb1": 457.6,
        "eps_greedy": 413.6,
        "greedy": 402.8,
        "rl2": 438.9,
    }
    assert second["mdp:s=10,a=5,t=10,n=10"]["rl2"] == 156.2
    assert second["mdp:s=10,a=5,t=10,n=100"]["greedy"] == 1578.5
    assert [len(first), len(second)] == [9, 5]


GIVEN = {"task": TASK, "agent": "rl2", "num_tasks": 9, "seed": 0}
SCORED = {"mean": 6.6, "standard_error": 0.1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GIVEN | {"standard_error": 0.1}], "a.json, row 1: mean is missing"),
        ([{"of": "tests"}, GIVEN | SCORED | {"mean": "x"}], "row 2: mean must be a finite number, got 'x'"),
        ([GIVEN | SCORED | {"num_tasks": 0}], "row 1: num_tasks must be a whole number >= 1, got 0"),
        ([GIVEN | SCORED | {"seed": "x"}], "row 1: seed must be a whole number, got 'x'"),
        ([GIVEN | SCORED | {"sed": 1}], "row 1: sed is no field of such a row"),
    ],
)
def test_a_row_that_no_table_could_be_made_of_is_named_by_its_place(tmp_path, rows, message):
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def lines_of(rows, **options):
    """Setup -> agent -> cell, of table 1."""
    (section,) = build_table(1, rows, **options).sections
    return {name: line.cells for name, line in section.lines.items()}


def notes_of(rows):
    return [str(note) for note in build_table(1, rows).notes]


def test_cells_of_a_table():
    table = build_table(1, ROWS)
    (section,) = table.sections
    assert list(section.lines) == [TASK, OTHER]
    cell = section.lines[TASK].cells["rl2"]
    assert (cell.mean, cell.published, cell.num_tasks, cell.bold, cell.trained) == (6.634, 6.7, 1000, True, True)
    assert cell.of_limit == pytest.approx(6.634 / 6.65999)
    assert section.score_text(cell) == "6.634 ± 0.012"
    other = section.lines[OTHER].cells
    assert (other["rl2"].mean, other["rl2"].published) == (None, 84.9)
    assert other["gittins"].num_tasks == 500
    assert FewerTasks("Gittins", "k=50, n=100", 500, 1000) in table.notes
    assert "Gittins, k=50, n=100: 500 tasks, the others 1000." in notes_of(ROWS)
    assert any("preset cpu, seed 0" in note for note in notes_of(ROWS))
    assert "bayes_optimal" not in section.columns
    assert lines_of(ROWS, everything=True)[TASK]["bayes_optimal"].mean == 6.66
    with pytest.raises(ValueError, match="table must be one of 1, 2, 3, got 7"):
        build_table(7, ROWS)


def test_every_table_of_the_registry_has_what_pages_need():
    assert list(TABLES) == [1, 2, 3]
    assert [set(paper.tasks) for paper in TABLES.values()] == [set(SCORES[1].scores), set(SCORES[2].scores), set(MAZES)]
    for number, paper in TABLES.items():
        empty = build_table(number, [])
        assert (empty.title, empty.sections) == (paper.title, [])
        assert to_markdown(empty).startswith(f"### {paper.title}\n")


def test_the_page_joins_the_notes_on_fewer_tasks(page):
    assert "<li>Fewer tasks than the 1,000 of the others: Gittins 500.</li>" in page
    assert "500 tasks, the others" not in page


@pytest.mark.parametrize(("below", "bold"), [(0.028, True), (0.029, False)])
def test_agents_that_never_met_are_compared_by_their_means(below, bold):
    """Nobody played against it; 6.634 is above it if the difference passes 1.645 x 0.0123 x sqrt 2 = 0.0286."""
    lone = row("rl2_best", 6.634 - below, preset="best", training_seed=0)
    assert lines_of([*ROWS, lone])[TASK]["rl2_best"].bold == bold
    assert lines_of([*ROWS, replace(lone, standard_error=None)])[TASK]["rl2_best"].bold


def test_how_far_a_training_went():
    def trained(agent, iteration):
        return row(
            agent, 6.4, iteration=iteration, hyperparameters={"iterations": 1000}, recipe="paper", training_seed=3
        )

    rows = [*ROWS, trained("rl2_paper", 120)]
    assert list(build_table(1, rows).sections[0].columns)[-2:] == ["rl2_paper", "limit"]
    assert "RL² (paper's recipe), k=5, n=10: after 120 of 1000 iterations." in notes_of(rows)
    assert "RL² trained with preset paper, seed 3." in notes_of(rows)
    assert not any("iterations" in note for note in notes_of([*ROWS, trained("rl2_paper", 1000)]))


def test_what_made_the_papers_recipe_cheaper_is_told():
    def notes(settings, agent="rl2_paper"):
        found = row(agent, 6.4, hyperparameters={"iterations": 10, **settings}, recipe="paper", training_seed=3)
        return [note for note in notes_of([*ROWS, found]) if "trained with" in note and "k=5" in note]

    plain = {"network.matmul_precision": "default", "batch.size": 250_000, "trpo.fisher_fraction": 1.0}
    rounds, small = {"network.matmul_precision": "bfloat16"}, {"batch.size": 50_000, "trpo.fisher_fraction": 0.2}
    assert notes(plain) == []
    (rounded,) = notes(rounds)
    assert rounded == "RL² (paper's recipe), k=5, n=10: trained with products rounded to bfloat16."
    (smaller,) = notes(small)
    assert smaller.endswith("with batches of 50000 steps and Fisher products of 0.2 of the trials.")
    (all_three,) = notes(small | rounds)
    assert all_three.endswith(
        "batches of 50000 steps, Fisher products of 0.2 of the trials and products rounded to bfloat16."
    )
    assert notes({"batch.size": 1000}, "rl2_best") == []  # a recipe of its own


def test_markdown():
    text = to_markdown(build_table(1, ROWS))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "**6.634 ± 0.012** (6.7)" in text
    assert "| 99.61 |" in text


def test_latex_is_balanced_and_escaped():
    text = to_latex(build_table(1, ROWS))
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in body}) == 1
    assert r"\textbf{6.634 $\pm$ 0.012}" in text
    assert not re.search(r"(?<!\\)%(?! )", text)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert text.isascii()


def test_csv_reads_back():
    read = list(csv.DictReader(io.StringIO(to_csv(build_table(1, ROWS)))))
    (ours,) = [line for line in read if (line["task"], line["agent"]) == (TASK, "rl2")]
    assert (float(ours["mean"]), float(ours["published"]), ours["bold"]) == (6.634, 6.7, "1")


def test_short_names():
    assert short(TASK) == "k=5, n=10"
    assert short("mdp:s=10,a=5,t=10,n=25") == "n=25"


# --- Figures.


def test_learning_curves_are_normalised_and_seeds_are_a_band():
    figure = figures.learning_curves(2, ROWS + CURVES)
    (axis,) = figure.axes
    line = axis.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), (np.array([5.0, 6.0, 6.65]) - 5.0) / 1.5)
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((6.7 - 5.0) / 1.5)
    with pytest.raises(ValueError, match="needs rows of rl2 with a learning_curve"):
        figures.learning_curves(2, ROWS)
    with pytest.raises(ValueError, match="figure must be one of 2, 3, got 1"):
        figures.learning_curves(1, ROWS)


def test_learning_curves_have_a_colour_for_each_number_of_arms_and_a_line_for_each_preset():
    """Of n=10 there is k=5 alone, of n=100 k=50 alone: they are not of one colour. Presets are not averaged."""
    curve = {"iteration": [1, 2], "mean_return": [49.8, 84.0]}
    rows = [*ROWS, *CURVES, row("rl2", 80.0, OTHER, training_seed=0, preset="cpu", learning_curve=curve)]
    rows.append(
        row("rl2", 6.6, training_seed=1, preset="paper", learning_curve={"iteration": [1], "mean_return": [5.0]})
    )
    short_trials, long_trials = figures.learning_curves(2, rows).axes
    own, paper, _ = short_trials.get_lines()
    assert own.get_color() == paper.get_color() != long_trials.get_lines()[0].get_color()
    assert [own.get_label(), paper.get_label()] == ["k=5, own settings (2 seeds)", "k=5, paper"]
    assert [own.get_linestyle(), paper.get_linestyle()] == ["-", "--"]
    np.testing.assert_allclose(long_trials.get_lines()[0].get_ydata(), [0.0, 1.0])


def test_regret_counts_from_the_best_arm():
    (axis,) = figures.regret_over_time(TASK, ROWS).axes
    ends = {line.get_label().split("  ")[0]: line.get_ydata()[-1] for line in axis.get_lines()}
    assert ends["Random"] == pytest.approx(10 * 5 / 6 - 5.0)
    assert "limit" not in ends


def test_heat_maps_have_a_panel_an_agent():
    figure = figures.pull_heat_maps(TASK, ROWS)
    shown = [axis.get_title() for axis in figure.axes if axis.get_visible() and axis.get_title()]
    assert len(shown) == 4  # random, gittins, rl2, bayes_optimal


def test_reward_per_episode_sums_steps():
    task = "mdp:s=10,a=5,t=10,n=10"
    rows = [row("rl2", 30.0, task, reward_curve=[0.1] * 10 + [0.2] * 10)]
    (axis,) = figures.reward_per_episode(task, rows).axes
    np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), [1.0, 2.0])


# --- The page.


class Collector(HTMLParser):
    """Tags that are open, addresses that are asked for, text."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text, self.images = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [v for k, v in attrs.items() if k in ("src", "href", "srcset", "xlink:href") and v[0] != "#"]
        if tag in ("img", "svg"):
            self.images.append(attrs.get("alt") or attrs.get("aria-label"))
        if tag not in ("meta", "link", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page():
    return build_page(1, ROWS + CURVES)


def test_the_page_is_well_formed_and_self_contained(page):
    collector = Collector()
    collector.feed(page)
    assert collector.open == []
    assert collector.addresses
    assert all(address.startswith("data:") for address in collector.addresses)
    assert collector.images
    assert all(collector.images)
    text = " ".join(collector.text)
    for expected in ("6.634 ± 0.012", "rl2jax <train>", "k=50, n=100", "Bayes-optimal", "Learning curves"):
        assert expected in text


def test_a_page_needs_rows():
    with pytest.raises(ValueError, match="no row of table 2"):
        build_page(2, ROWS)


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_opens_in_a_browser(page, tmp_path, dark):
    """Without a network: it renders, at laptop width, in both themes."""
    path, picture = tmp_path / "page.html", tmp_path / "page.png"
    path.write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,900", f"--screenshot={picture}"]
    options += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run([chromium(), *options, path.as_uri()], check=True, capture_output=True, timeout=120)
    import matplotlib.image

    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[1] == 1280
    assert (pixels.mean() < 0.4) if dark else (pixels.mean() > 0.8)
    assert pixels.std() > 0.05  # something is written on it


# --- Against the paper.


def test_deviations_are_in_combined_standard_errors():
    rows = [row("gittins", 6.8, standard_error=0.02, num_tasks=10_000), row("greedy", 6.6), row("rl2", 9.0)]
    far, near = deviations(1, rows)
    # ours 0.02; spread 2, so 2 / sqrt(1000) = 0.06325 for the paper; rounding 0.02887; published 6.6
    assert far.error == pytest.approx(np.sqrt(0.02**2 + 4 / 1000 + 0.01 / 12))
    assert far.z == pytest.approx(0.2 / far.error)
    assert (far.agent, near.agent, near.z) == ("gittins", "greedy", 0.0)
    text = deviations_markdown(1, rows)
    assert "1 of 2 cells within 2" in text
    assert re.search(r"k=5, n=10 \| Gittins \| 6\.800 \| 6\.6 \| 0\.072 \| \*\*\+2\.8\*\* \| \w+", text)
    assert "| Greedy | 6.600 | 6.6 | 0.034 | +0.0 |  |" in text
    tuning = {"scores": [{"hyperparameters": {"discount": d}, "mean": m} for d, m in ((0.5, 6.8), (0.9, 6.63))]}
    (far,) = deviations(1, [replace(rows[0], tuning=tuning)])
    assert far.cause.startswith("would fit: discount 0.9, 6.63 on tuning tasks")
