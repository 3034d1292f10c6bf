# Every target does its own set-up: a .venv in this checkout, made by `make install`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The preset of the reproductions; empty picks `paper` on an accelerator and `cpu` without one.
PRESET ?=
# Keep large freed blocks and back them with huge pages: a third of a CPU iteration is page faults otherwise.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: install test test-slow test-faults check format quickstart reproduce-table1 reproduce-table2 reproduce-table3 reproduce-wang imitation beyond-teacher training-seeds extrapolation benchmark candidates agents docs tables report examples wheel test-versions clean

install: $(STAMP)

$(STAMP): pyproject.toml tools/install.py
	$(PYTHON) tools/install.py $(VENV)
	@touch $(STAMP)

# A process per core, up to four; a file's tests stay together and share what they compiled.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Kills, full disks, damaged files, numbers that are not finite, clocks that jump, hundreds of configs: some 15 minutes.
test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults -n auto --maxprocesses 4 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check src experiments tools examples tests docs
	$(BIN)/ruff format --check src experiments tools examples tests docs
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix src experiments tools examples tests docs
	$(BIN)/ruff format src experiments tools examples tests docs

quickstart: $(STAMP)
	$(BIN)/python -m experiments.quickstart

reproduce-table1: $(STAMP)
	$(BIN)/python -m experiments.reproduce_table1 $(if $(PRESET),--preset $(PRESET))

reproduce-table2: $(STAMP)
	$(BIN)/python -m experiments.reproduce_table2 $(if $(PRESET),--preset $(PRESET))

# In ViZDoom where it is installed; RECIPE=best trains by it; RUNS="DIR DIR" for trained runs.
reproduce-table3: $(STAMP)
	$(BIN)/python -m experiments.reproduce_table3 $(if $(PRESET),--preset $(PRESET)) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(RUNS),--run $(RUNS))

# The experiments of Wang et al. 2016 and 2018; ONLY="bandits harlow" for some of them.
reproduce-wang: $(STAMP)
	$(BIN)/python -m experiments.wang $(if $(PRESET),--preset $(PRESET)) $(if $(ONLY),--only $(ONLY))

# Beside PyTorch too where it is installed; CHECK=1 fails where a ratio is worse than in the last commit's rows.
benchmark: $(STAMP)
	$(BIN)/python -m experiments.benchmarks $(if $(CHECK),--check)

# Hours; a process per task and core is twice as fast (docs/appendix_recipes.md).
candidates: $(STAMP)
	$(BIN)/python -m experiments.candidates

imitation: $(STAMP)
	$(BIN)/python -m experiments.imitation

# Whether reinforcement gains or loses what the trained agents learned from their teacher.
beyond-teacher: $(STAMP)
	$(BIN)/python -m experiments.beyond_teacher

# What a recipe's agents owe to their training seed; RECIPE=best-scratch for those from random weights. Hours.
training-seeds: $(STAMP)
	$(BIN)/python -m experiments.training_seeds --recipe $(or $(RECIPE),best)

# The package's trained agents, or with RUNS="DIR DIR" those of run folders.
extrapolation: $(STAMP)
	$(BIN)/python -m experiments.extrapolation $(if $(RUNS),--runs $(RUNS))

# The trained agents that come with the package; RECIPE=best-scratch for those from random weights.
agents: $(STAMP)
	$(BIN)/python -m experiments.train_agents $(if $(RECIPE),--recipe $(RECIPE))

# Into build/site; a link that leads nowhere is an error. Only the first time needs a network, for mkdocs.
docs: $(BIN)/mkdocs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(BIN)/mkdocs: | $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'

# Tables, figures, README's tables and the page, from the rows on disk alone; trains nothing, a minute or two.
tables: $(STAMP)
	$(BIN)/python -m experiments.tables

# All results on disk as one page.
report: $(STAMP)
	$(BIN)/rl2jax report

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache

# Each a few minutes on two cores: an agent at work, a task of one's own, what a hidden state knows (docs/howto/examples.md).
examples: $(STAMP)
	$(BIN)/python examples/watch_an_agent.py
	$(BIN)/python examples/guess_the_number.py
	$(BIN)/python examples/read_its_mind.py

# Builds the last commit's archives into dist/, and tries the wheel in an environment of its own, outside this tree.
wheel: $(STAMP)
	$(BIN)/python -m tools.release

# The suite's core with the oldest dependencies that pyproject.toml allows, and with the newest; continues where it was.
test-versions: $(STAMP)
	$(BIN)/python -m tools.versions
