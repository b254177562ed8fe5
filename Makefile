# Every target works alone in a fresh clone: it makes the environment in $(VENV) when there is none.
# Plain pip does the same: python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'

PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
SAE_PEERS ?= .venv-peers-sae
THREADS ?= 1
MODEL ?= reference:analytic
BIN := $(VENV)/bin
SITE := 'import sysconfig; print(sysconfig.get_path("purelib"))'

# One thread: results do not depend on the number of cores, and parallel workers do not fight.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help setup audit evaluate test slow cov lint fmt bench bench-sae example controls selftest selftest-trained calibration mutants fixtures wheel ci clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(VENV)/.installed ## make the environment

$(VENV)/.installed: pyproject.toml hatch_build.py
	@echo "making the environment in $(VENV); the first time this takes minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $@

audit: setup ## audit MODEL, the embedded reference model, and print where the page is
	$(BIN)/arrcoc-verify audit --model $(MODEL)

evaluate: setup ## measure the trained reference model on held-out scenes: the card's figures
	$(BIN)/arrcoc-verify evaluate reference:trained

test: setup ## run the tests, without the slow ones
	$(BIN)/python -m pytest

slow: setup ## run the slow tests only
	$(BIN)/python -m pytest -m "slow and not gpu and not pretrained"

cov: setup ## run the tests under coverage
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: setup ## check style, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: setup ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The script makes the rivals' environment in $(PEERS): it borrows torch from the first one.
bench: setup ## measure against a naive loop and nnsight, in one run
	$(BIN)/python benchmarks/bench.py --peers $(PEERS) --out reports/bench.json

bench-sae: setup ## train dictionaries with SAELens, dictionary_learning, sparsify and ours, in one run
	$(BIN)/python benchmarks/bench_sae.py --peers $(SAE_PEERS) --threads $(THREADS) --json reports/bench_sae.json

example: setup ## make the example audit in reports/example again
	rm -rf reports/example
	$(BIN)/arrcoc-verify audit --seed 0 --out reports/example

controls: setup ## try the suite on every planted fault and keep what it caught (20 minutes)
	$(BIN)/python -m arrcoc_verify.faults.controls --write

selftest: setup ## measure detection and false alarms, and keep them (40 minutes on 2 cores)
	$(BIN)/arrcoc-verify selftest --keep

selftest-trained: setup ## the same on a sample of faults in the trained model (80 minutes on one core)
	$(BIN)/arrcoc-verify selftest --model reference:trained --sample 60 --keep

mutants: setup ## change the deciding code bit by bit and see whether the tests notice (hours)
	$(BIN)/python scripts/mutants.py

calibration: setup ## simulate how far intervals and tests can be trusted
	$(BIN)/python -m arrcoc_verify.stats.calibration --json reports/calibration.json

fixtures: setup ## derive roles, digests and the lexicon from the photographs anew
	$(BIN)/python -m arrcoc_verify.scenes.roles
	$(BIN)/python -m arrcoc_verify.reference.lexicon

wheel: setup ## build the wheel, audit with it in an empty folder with the network off
	bash scripts/check_wheel.sh '$(BIN)/python'

ci: lint test wheel ## everything that a change must pass

clean: ## remove builds and caches; the environment and the reports stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
