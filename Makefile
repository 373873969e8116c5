# Two targets do all the set-up on a fresh machine with Python 3.11 or newer:
#
#   make quickstart    a first comparison of six strategies, in a few minutes
#   make test          everything that a change has to pass
#
# Another interpreter: make PYTHON=python3.12 quickstart

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Trials and tests take their parallelism from processes; more threads than cores only slow each other down.
test lint: export OMP_NUM_THREADS ?= 1
test: export MPLBACKEND := Agg

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.installed
	$(BIN)/raycl run sweeps/quickstart.yaml

test: lint
	$(BIN)/pytest --durations=15 $(PYTEST_ARGS)

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
