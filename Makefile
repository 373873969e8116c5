# These targets do all the set-up on a fresh machine with Python 3.11 or newer:
#
#   make quickstart    a first comparison of six strategies, in a few minutes
#   make test          what a change has to pass while it is made
#   make test-slow     what is slow: real sweeps, clusters that die, the wheel in an environment of its own, the site
#   make test-all      both, one after the other: everything that a change has to pass in the end
#   make docs          the documentation's site, in site/
#   make bench         what raycl costs beside a bare loop, and beside avalanche, which is installed below .bench/
#
# Another interpreter: make PYTHON=python3.12 quickstart
#
# Without a GPU: on Linux, torch comes with the CUDA libraries unless it is told otherwise, and they are most of what is
# downloaded. There is a second package index with builds of torch and torchvision for CPUs: the "Get started" page of
# PyTorch names it, and the option with which pip looks there too. make PIP_ARGS='...' quickstart hands that to pip. Such
# builds (2.15.0+cpu) count as newer than the plain ones of the same version, so pip takes them. What is installed
# already stays: begin with `make clean`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Processes for the tests that start none of their own.
WORKERS ?= 2
PIP_ARGS ?=
INSTALL = $(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS)

# Said before anything is downloaded. Round figures for torch 2.15 on Linux: room on disk as measured, without CUDA less
# what is CUDA's; downloads by how far such files compress.
SIZE = about 3 GB to download and 7 GB on disk, as torch for Linux brings the CUDA libraries; builds without them, \
	about 0.7 GB and 2 GB, can be had (see the top of the Makefile)

# Trials and tests take their parallelism from processes; more threads than cores only slow each other down.
test test-slow lint bench: export OMP_NUM_THREADS ?= 1
test test-slow: export MPLBACKEND := Agg

.PHONY: quickstart test test-slow test-all lint docs bench clean

quickstart: $(VENV)/.installed
	$(BIN)/raycl run sweeps/quickstart.yaml

test: lint
	$(BIN)/pytest --durations=15 -m 'not slow and not ray and not alone' -n $(WORKERS) $(PYTEST_ARGS)
	$(BIN)/pytest --durations=15 -m 'not slow and (ray or alone)' $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test
	$(BIN)/pytest --durations=15 -m slow $(PYTEST_ARGS)

test-all: test test-slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/trainer_overhead.py
	$(BIN)/python benchmarks/online.py
	$(BIN)/python benchmarks/beside_avalanche.py
	$(BIN)/python benchmarks/thousand_tasks.py

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py constraints.txt | $(BIN)/python
	@echo 'Installing raycl into $(VENV), which takes some minutes: $(SIZE).'
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml setup.py constraints.txt | $(BIN)/python
	@echo 'Installing raycl and its test tools into $(VENV), which takes some minutes: $(SIZE).'
	$(INSTALL) -e '.[test,analysis]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing raycl and what its documentation is built with into $(VENV).'
	$(INSTALL) -e '.[docs]'
	touch $@ $(VENV)/.installed
