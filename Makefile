# The whole interface of a checkout. Everything is installed into .venv, nothing elsewhere.
PYTHON ?= python3
# One more than the two cores that are planned for: tests wait for child processes and for the disk.
JOBS ?= 3
BIN := .venv/bin
# Test files differ in length by minutes: an idle worker takes over what another has left.
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal
BENCHMARKS ?= benchmarks/step_cost.py benchmarks/convolution.py benchmarks/storage.py benchmarks/devices.py

# Figures are written to files, never shown.
export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs truth bench clean

help: ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

# The virtual environment, made again when the dependencies change.
.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "smilax needs Python 3.11 or newer, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || { echo "Creating .venv"; $(PYTHON) -m venv .venv; }
	@echo "Installing smilax and its dependencies into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

.venv/.installed-docs: .venv/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

install: .venv/.installed ## install smilax, editable, with what the tests need

demo: install ## fit Bayesian networks to digits and diabetes; writes demo.png
	@$(BIN)/smilax demo

test: install ## the whole suite in float32, then all but the tests marked `once` in float64
	$(PYTEST)
	JAX_ENABLE_X64=1 $(PYTEST)

check: install ## format, lint, types, examples in docstrings and README, undocumented public names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
# Apart from tests/, whose conftest.py makes JAX stricter than it is for the users the examples are written for; without
# most of the compiler's optimisations, as there, which take longer than the examples.
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 XLA_FLAGS=--xla_cpu_use_fusion_emitters=false $(PYTEST) --doctest-modules src

docs: .venv/.installed-docs ## build the documentation into docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "Open docs/_build/index.html"

truth: install ## the slow tests, then every sampler against reference posteriors: docs/truth.md, 45 minutes
	$(BIN)/python -m pytest -q -m truth
	$(BIN)/python -m benchmarks.truth

bench: install ## measure the cost of a step, of a convolution, of storing draws, and what devices add
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove what was built, but not .venv
	rm -rf build dist docs/_build docs/jupyter_execute .pytest_cache .ruff_cache .mypy_cache .hypothesis demo.png
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
