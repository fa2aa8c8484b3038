# make demo            new machine: environment, install, phantom heart set, plan, train, predict, evaluate, one picture
# make test            the quick suite (.ci/run calls it)
# make test-slow       the slow tests
# make demo-compare    MCSC beside the supervised baseline on the demo set, 3 seeds (an hour or more on 2 cores)
# make demo-folds      two configurations over five folds on a demo set, the best chosen, an ensemble (long)
# make lint            format, lint, types

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
DATA ?=
RUN ?= runs/demo
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet $(TORCH)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

install: $(STAMP)

demo: $(STAMP)
	$(PY) -m benchmarks.demo --run_dir $(RUN) $(if $(DATA),--task $(DATA))

demo-compare: $(STAMP)
	$(PY) -m benchmarks.demo_compare

demo-folds: $(STAMP)
	$(PY) -m benchmarks.demo_folds

test: $(STAMP)
	$(PY) -m pytest -q -x --durations=10

test-slow: $(STAMP)
	$(PY) -m pytest -q -m slow

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy mcsc_bundle preprocessing bundle

.PHONY: install demo demo-compare demo-folds test test-slow lint
