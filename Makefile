# Every target does its own set-up: the virtual environment in .venv is made on first use and reused.

.DEFAULT_GOAL := help

# The first of these that is Python 3.11 to 3.13 and can make virtual environments; or say PYTHON=/path/to/python3.12.
CANDIDATES := python3.11 python3.12 python3.13 python3 python
IS_SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	"$$python" -c '$(IS_SUITABLE)' 2>/dev/null && { echo "$$python"; break; }; done)

NEEDS_PYTHON = realshard needs Python 3.11, 3.12 or 3.13 with its venv module, found: $(or $(PYTHON),none). \
	Install one (Debian: apt-get install python3.11-venv) or name it: make PYTHON=/usr/bin/python3.12
NO_SPACES = realshard must lie in a path without spaces, since Ray cannot start its workers from one, received: $(CURDIR). \
	Move or clone it elsewhere.

STAMP := .venv/.installed
# What is installed besides, from pyproject.toml: EXTRAS=dev,gpu for NVIDIA GPUs. Said once, it holds from then on.
INSTALLED := $(shell cat $(STAMP) 2>/dev/null)
EXTRAS ?= $(or $(INSTALLED),dev)
RUN := .venv/bin/python

# On one machine everything listens on loopback, without tokens; a cluster beyond it sets RAY_AUTH_MODE=token.
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true
export TF_CPP_MIN_LOG_LEVEL ?= 3

IN_PARALLEL := --numprocesses 2 --dist loadfile  # two processes, a file in one of them

.PHONY: help install demo compare test test-long lint format ui serve cluster-up cluster-down clean

help:  ## list the targets (what `make` alone does)
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
		printf '%-20s %s\n' "$$target" "$$text"; done

FORCE:

$(STAMP): pyproject.toml constraints.txt $(if $(filter-out $(INSTALLED),$(EXTRAS)),FORCE)
	@case "$(CURDIR)" in *" "*) echo "$(NO_SPACES)" >&2; exit 1;; esac
	@"$(PYTHON)" -c '$(IS_SUITABLE)' 2>/dev/null || { echo "$(NEEDS_PYTHON)" >&2; exit 1; }
	@.venv/bin/python -c '$(IS_SUITABLE)' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv
	@echo "installing into .venv with the versions of constraints.txt ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@echo '$(EXTRAS)' > $(STAMP)

install: $(STAMP)  ## make .venv and install the project into it; with EXTRAS=dev,gpu for NVIDIA GPUs too

demo: $(STAMP)  ## photographs -> shards -> training -> MLflow -> a verdict; ends with a table (about 10 minutes)
	@$(RUN) -m trainers.demo

compare: $(STAMP)  ## every model on one small corpus, in one table (under an hour on 2 cores); again: goes on where it was
	@$(RUN) -m trainers.compare

test: $(STAMP)  ## the tests (at most 15 minutes on 2 cores, no network)
	@$(RUN) -m pytest $(IN_PARALLEL)

test-long: $(STAMP)  ## the slow tests: faults, scale, jobs on a cluster, the page in a browser
	@.ci/debian-packages
	@$(RUN) -m pytest -m long $(IN_PARALLEL) --no-loadscope-reorder  # but in the order of tests/conftest.py

lint: $(STAMP)  ## ruff and mypy
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(STAMP)  ## let ruff rewrite what it can; renew the tree in the README
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .
	@$(RUN) tests/readme_tree.py

ui: $(STAMP)  ## MLflow's pages on http://127.0.0.1:5000, until Ctrl-C
	@$(RUN) -m cluster.ui

serve: $(STAMP)  ## the champion behind HTTP, with a page, on http://127.0.0.1:8000, until Ctrl-C
	@$(RUN) -m cluster.server

cluster-up: $(STAMP)  ## start a Ray head here; then `ray job submit trainers/resnet.py`
	@$(RUN) -m cluster.head up

cluster-down: $(STAMP)  ## stop that Ray head
	@$(RUN) -m cluster.head down

clean:  ## delete what the commands made in this folder (runs/, caches); keeps .venv and REALSHARD_HOME
	@rm -rf runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name .venv -prune -o -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
