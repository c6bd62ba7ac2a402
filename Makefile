# `make` lists what there is to do. Everything happens in .venv, which `make check` and `make test` create.

PYTHON ?= python3
LSTM ?= ref:
PROFILE ?= quick
DTYPE ?= float64,float32
BIN := .venv/bin
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help check test browser lint bench calibrate docs clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

check: .venv/core ## judge an LSTM (LSTM=ref: by default; LSTM=torch:, LSTM=my_module:MyLSTM; PROFILE=ci; DTYPE=float32)
	$(if $(filter torch:%,$(LSTM)),$(MAKE) --no-print-directory .venv/all)
	$(BIN)/lstm-ref check '$(LSTM)' --profile $(PROFILE) --dtype $(DTYPE)

test: .venv/all browser ## run every test: the checks on the reference, and the harness's own
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 --dist worksteal

browser: # what looks at the HTML reports; tests that need it are skipped by name where there is none, and fail under CI
	@if [ -n "$$CI" ] && ! command -v chromium >/dev/null; then \
		$$([ "$$(id -u)" = 0 ] || echo sudo) sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium'; \
	fi

lint: .venv/all ## format the code and check it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: .venv/all ## measure speed against the rivals named in each script; frameworks.py and campaign_*.py take hours and are run by hand
	for script in $(filter-out benchmarks/frameworks.py benchmarks/campaign_%.py,$(sort $(wildcard benchmarks/[a-z]*.py))); do \
		echo "$$script"; $(BIN)/python $$script || exit 1; done

calibrate: .venv/all ## error ÷ (u · condition) of correct LSTMs
	$(BIN)/lstm-ref calibrate ref: torch: jax:examples/jax_scan.py:lstm equinox: --dtype float64,float32,bfloat16

docs: .venv/docs ## build the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/all: .venv/core pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

.venv/docs: .venv/core pyproject.toml
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean: ## remove what was installed and built
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
