# Every target does its own set-up: a .venv in this checkout, made by `make install`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The preset of the reproductions; empty picks `paper` on an accelerator and `cpu` without one.
PRESET ?=
# Keep large freed blocks and back them with huge pages: a third of a CPU iteration is page faults otherwise.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help install test test-slow test-faults check format quickstart reproduce-table1 reproduce-table2 reproduce-table3 reproduce-wang imitation beyond-teacher training-seeds extrapolation benchmark candidates agents docs tables report examples wheel test-versions paper-column clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "%-18s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Make .venv and install the package (done by every target that needs it)

$(STAMP): pyproject.toml tools/install.py
	$(PYTHON) tools/install.py $(VENV)
	@touch $(STAMP)

# A process per core, up to four; a file's tests stay together and share what they compiled.
test: $(STAMP) ## Run the test suite, under 8 minutes on two cores
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(STAMP) ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow

test-faults: $(STAMP) ## Kills, full disks, damaged files, odd clocks: some 15 minutes
	$(BIN)/python -m pytest -m faults -n auto --maxprocesses 4 --dist loadfile

check: $(STAMP) ## Lint, formatting, types
	$(BIN)/ruff check src experiments tools examples tests docs
	$(BIN)/ruff format --check src experiments tools examples tests docs
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix src experiments tools examples tests docs
	$(BIN)/ruff format src experiments tools examples tests docs

quickstart: $(STAMP) ## Train k=5, n=10 in five minutes, with its row of Table 1 and a plot
	$(BIN)/python -m experiments.quickstart

reproduce-table1: $(STAMP) ## The bandits of Table 1; PRESET=paper or PRESET=cpu forces one
	$(BIN)/python -m experiments.reproduce_table1 $(if $(PRESET),--preset $(PRESET))

reproduce-table2: $(STAMP) ## The tabular MDPs of Table 2
	$(BIN)/python -m experiments.reproduce_table2 $(if $(PRESET),--preset $(PRESET))

reproduce-table3: $(STAMP) ## The mazes of Table 3; RECIPE=best trains by it, RUNS="DIR DIR" for trained runs
	$(BIN)/python -m experiments.reproduce_table3 $(if $(PRESET),--preset $(PRESET)) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(RUNS),--run $(RUNS))

reproduce-wang: $(STAMP) ## The experiments of Wang et al. 2016 and 2018; ONLY="bandits harlow" for some
	$(BIN)/python -m experiments.wang $(if $(PRESET),--preset $(PRESET)) $(if $(ONLY),--only $(ONLY))

benchmark: $(STAMP) ## Time every part of an iteration; CHECK=1 fails where a ratio got worse
	$(BIN)/python -m experiments.benchmarks $(if $(CHECK),--check)

candidates: $(STAMP) ## Ways to train, compared at equal time; hours
	$(BIN)/python -m experiments.candidates

imitation: $(STAMP) ## Section 3.1: the network trained on a teacher's actions
	$(BIN)/python -m experiments.imitation

beyond-teacher: $(STAMP) ## Whether reinforcement improves on what was imitated
	$(BIN)/python -m experiments.beyond_teacher

training-seeds: $(STAMP) ## What a recipe's agents owe to their seed; RECIPE=best-scratch; hours
	$(BIN)/python -m experiments.training_seeds --recipe $(or $(RECIPE),best)

extrapolation: $(STAMP) ## Trained agents at other lengths and sizes; RUNS="DIR DIR"
	$(BIN)/python -m experiments.extrapolation $(if $(RUNS),--runs $(RUNS))

agents: $(STAMP) ## Train and ship the package's agents; RECIPE=best-scratch
	$(BIN)/python -m experiments.train_agents $(if $(RECIPE),--recipe $(RECIPE))

paper-column: $(STAMP) ## The paper's recipe to its end, at low priority; stop and start at any time; MINUTES=60
	$(BIN)/python -m experiments.paper_column $(if $(PRESET),--preset $(PRESET)) $(if $(MINUTES),--minutes $(MINUTES))

# Into build/site; a link that leads nowhere is an error. Only the first time needs a network, for mkdocs.
docs: $(BIN)/mkdocs ## Build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(BIN)/mkdocs: | $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'

tables: $(STAMP) ## Write tables, figures and the results page from the rows on disk
	$(BIN)/python -m experiments.tables

report: $(STAMP) ## All results on disk as one page
	$(BIN)/rl2jax report

clean: ## Remove what was built
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache

examples: $(STAMP) ## Run the examples, a few minutes each
	$(BIN)/python examples/watch_an_agent.py
	$(BIN)/python examples/guess_the_number.py
	$(BIN)/python examples/read_its_mind.py

wheel: $(STAMP) ## Build the last commit's archives and try the wheel outside this tree
	$(BIN)/python -m tools.release

test-versions: $(STAMP) ## The suite's core with the oldest and the newest dependencies
	$(BIN)/python -m tools.versions
