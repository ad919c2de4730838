# Few verbs; `make help` prints them. A second run sets nothing up again.

PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 200
PYTEST_FLAGS ?=
BENCH_FLAGS ?=
PEERS_VENV := .venv-peers

BIN := $(VENV)/bin
RUN := $(BIN)/python
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
SAY := @printf '== %s\n'

.DEFAULT_GOAL := help
.PHONY: help demo test check fast sim replay interrupts bench peers docs clean apt lint

help:  ## print this
	@sed -n 's/^\([a-z]*\):.*##[[:space:]]*/\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(VENV)/.installed  ## set up and run a real job on this machine
	$(SAY) "examples/census.py"
	@$(RUN) examples/census.py

test: apt lint  ## set up, check, and run every test
	$(SAY) "pytest"
	@$(RUN) -m pytest --durations=10 $(PYTEST_FLAGS)

check: lint  ## ruff format, ruff, mypy --strict, tidy
	$(SAY) "tidy"
	@$(RUN) -m pytest -q tests/test_tidy.py

lint: $(VENV)/.installed-test
	$(SAY) "ruff format, ruff check"
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	$(SAY) "mypy --strict fabric cli"
	@$(BIN)/mypy --strict fabric cli

fast: $(VENV)/.installed-test  ## the tests that start no process and no simulation
	@$(RUN) -m pytest -q -m "not system and not sim" $(PYTEST_FLAGS)

sim: $(VENV)/.installed-test  ## the simulator over SEEDS=200 seeds
	@$(RUN) -m tests.sim --seeds $(SEEDS)

replay: $(VENV)/.installed-test  ## one seed again, with its story: SEED=17
	@test -n "$(SEED)" || { echo "make replay SEED=17: which seed?" >&2; exit 2; }
	@$(RUN) -m tests.sim --replay $(SEED)

interrupts: $(VENV)/.installed-test  ## get, Ctrl-C, get: 10,000 times
	@$(RUN) -m tests.strikes

bench: $(VENV)/.installed-test  ## measure beside the peers that are installed (nothing is asserted)
	@$(RUN) -m bench $(BENCH_FLAGS)

peers: $(PEERS_VENV)/.installed  ## the systems to measure beside, in an environment of their own

docs: $(VENV)/.installed-test  ## write what is generated from the code
	@$(RUN) -m tests.docs
	@$(RUN) -m tests.transcripts

clean:  ## remove the environment and every cache
	@rm -rf $(VENV) $(PEERS_VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(SAY) "$(VENV), from $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv to make an environment with: apt-get install python3-venv (or make PYTHON=...)" >&2; \
		exit 1; \
	}
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(SAY) "installing fabric into $(VENV)"
	@$(PIP) install -e .
	@touch $@

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(SAY) "installing fabric and what its tests need into $(VENV)"
	@$(PIP) install -e '.[test]'
	@touch $@ $(VENV)/.installed

$(PEERS_VENV)/.installed: bench/peers.txt
	$(SAY) "installing what bench/peers.txt names into $(PEERS_VENV)"
	@$(PYTHON) -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check install -r bench/peers.txt
	@touch $@

# Debian packages need root; without it, the tests that need them skip and say so.
apt:
	@wanted=$$(sed 's/#.*//' apt.txt); missing=""; \
	for name in $$wanted; do dpkg -s $$name >/dev/null 2>&1 || missing="$$missing $$name"; done; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "== apt-get install$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "== not installed, as this is not root on Debian:$$missing"; \
	fi
