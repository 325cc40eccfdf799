# `make demo` and `make test` set themselves up; both need only Python >= 3.11 with pip, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# More arguments for pip, e.g. an index with CPU builds of torch.
PIP_EXTRA ?=

.PHONY: demo test quick faults check lint format clean

demo: $(VENV)/.simulation
	$(BIN)/fedmesh simulate digits

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto $(PYTEST_ARGS)

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m "not slow" $(PYTEST_ARGS)

faults: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m exhaustive $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedmesh needs Python 3.11 or newer, this is " + sys.version + ": set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade --quiet "pip>=25.1"

# The stamp is written last, so an interrupted install is taken up again by the next call.
$(VENV)/.simulation: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --progress-bar on $(PIP_EXTRA) -c constraints.txt -e ".[simulation]"
	touch $@

$(VENV)/.dev: $(VENV)/.simulation
	$(PIP) install --quiet $(PIP_EXTRA) -c constraints.txt -e ".[simulation,serve]" --group dev
	touch $@

clean:
	rm -rf $(VENV) dist runs .mypy_cache .ruff_cache .hypothesis .import_linter_cache
