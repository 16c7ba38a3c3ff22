# What a person runs. Each target builds the virtual environment it needs from the lock files, hashes checked.
# PYTHON chooses the interpreter (3.11 or newer); VENV the folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
.DEFAULT_GOAL := help
.PHONY: help install demo test lint docs bench soak known lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "reefd needs Python 3.11 or newer; found $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# --no-build-isolation: the build backend comes from the lock file too, so nothing unhashed is installed.
$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

# A browser, a broker and receivers of alerts that some tests drive, where they may be installed; never fails (REEFD_SYSTEM_PACKAGES=no: not at all).
$(VENV)/.system: .ci/system-packages | $(BIN)/python
	@.ci/system-packages
	@touch $@

install: $(VENV)/.dev ## the virtual environment with everything (for work on reefd itself)

demo: $(VENV)/.runtime ## a simulated venue, the daemon and a webhook receiver, for about a minute
	$(BIN)/reefd demo

# A process a core; WORKERS=0 runs them one after the other, here.
WORKERS ?= logical
PARALLEL = -n $(WORKERS) --maxprocesses 8 --dist worksteal

test: $(VENV)/.dev $(VENV)/.system ## every test
	$(BIN)/python -m pytest -q $(PARALLEL)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy --strict daemon

docs: $(VENV)/.dev ## the reference pages and the runbooks' JSON Schema, written anew from the code
	$(BIN)/python docs/generate.py
	$(BIN)/reefd schema runbook > config/schema/runbook.json

# ROWS=200000 is quick; PEERS=all also installs nautilus_trader and hftbacktest into environments of their own.
bench: $(VENV)/.dev ## speed beside its peers, in one run; benchmarks/out/bench.json
	$(BIN)/python -m benchmarks.run $(if $(ROWS),--rows $(ROWS)) $(if $(PEERS),--peers $(PEERS))
	$(BIN)/python -m benchmarks.stress $(if $(PATHS),--paths $(PATHS))

soak: $(VENV)/.dev ## the long tests (20 kill -9 in mid-action, 1,000 generated pairs of executions), then the demo at length
	REEFD_PAIRS=1000 $(BIN)/python -m pytest -q -m slow $(PARALLEL)
	$(BIN)/reefd demo --seconds 300

known: $(VENV)/.dev ## the stress engine against answers in closed form, 200,000 paths each; about an hour
	REEFD_KNOWN_PATHS=200000 $(BIN)/python -m pytest -q -rP tests/test_stress_known_answers.py -k 'long or short'

# Locks for Python 3.11 to 3.14 on every platform; pip reads the markers. Needs the program uv; UPGRADE=--upgrade takes new versions.
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  $(UPGRADE) --extra build
lock: ## write the lock files anew
	$(COMPILE) pyproject.toml | sed '/^--/d' > requirements.lock
	$(COMPILE) --extra dev -c requirements.lock pyproject.toml | sed '/^--/d' > requirements-dev.lock

clean: ## remove what the targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
