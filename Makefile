# On a machine with Python >= 3.11, make and git: `make demo` shows it, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROOMS := agents cli models sinks streams tables

.PHONY: help venv lock test lint format types imports unit property integration soak demo bench wheel clean
.DEFAULT_GOAL := help

help: ## what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# The stamp is as new as what is installed. Locked and with hashes: everybody runs what we tested.
$(VENV)/installed: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "assetstream needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing dependencies (about 250 MB the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -q -e .
	@touch $@

venv: $(VENV)/installed ## make .venv: the locked dependencies and this project, editable

lock: venv ## choose dependencies' versions anew, within the ranges of pyproject.toml
	$(BIN)/python -m pip install --disable-pip-version-check -q uv
	$(BIN)/uv pip compile pyproject.toml $(LOCK) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev -c requirements.lock $(LOCK) -o requirements-dev.lock
LOCK := --upgrade --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet

test: lint types imports ## all of the checks below; two test files at a time, each with servers of its own
	$(BIN)/pytest -n 2 --dist loadfile

lint: venv ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv ## mypy
	@mkdir -p build/typing/assetstream
	@for room in $(ROOMS); do ln -sfn "$(CURDIR)/$$room" build/typing/assetstream/$$room; done
	$(BIN)/mypy

imports: venv ## import-linter: who may import whom
	$(BIN)/lint-imports

unit: venv ## tests without servers
	$(BIN)/pytest -q tests/unit

property: venv ## the kernels against the reference, by hypothesis
	$(BIN)/pytest -q tests/property

integration: venv ## tests with the real Kafka and ClickHouse
	$(BIN)/pytest -q tests/integration

soak: venv ## a long campaign of random faults: make soak MINUTES=30 SEED=1
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

demo: venv ## see it run: make demo SECONDS=60
	$(BIN)/assetstream demo --seconds $(or $(SECONDS),30)

bench: venv ## the benchmarks
	$(BIN)/assetstream bench

wheel: venv ## dist/assetstream-….whl
	@rm -rf build/lib dist  # setuptools would pack what lies there from before
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean: ## remove what was built; not data, not .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
