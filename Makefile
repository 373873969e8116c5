# These targets do all the set-up on a fresh machine with Python 3.11 or newer:
#
#   make quickstart    a first comparison of six strategies, in a few minutes
#   make test          what a change has to pass while it is made
#   make test-all      that, and then what is slow: everything that a change has to pass in the end
#
# Another interpreter: make PYTHON=python3.12 quickstart

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Trials and tests take their parallelism from processes; more threads than cores only slow each other down.
test test-slow lint: export OMP_NUM_THREADS ?= 1
test test-slow: export MPLBACKEND := Agg

.PHONY: quickstart test test-slow test-all lint clean

quickstart: $(VENV)/.installed
	$(BIN)/raycl run sweeps/quickstart.yaml

test: lint
	$(BIN)/pytest --durations=15 -m 'not slow' $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test
	$(BIN)/pytest --durations=15 -m slow $(PYTEST_ARGS)

test-all: test test-slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing raycl into $(VENV): torch and ray are large, so the first time takes some minutes.'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing raycl and its test tools into $(VENV): torch and ray are large, so the first time takes some minutes.'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,analysis]'
	touch $@ $(VENV)/.installed
