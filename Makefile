# The one place that says how to set up, try, test and run ComfyFleet.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help setup demo up test check chaos bench clean
help:            ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready   ## virtual environment with the pinned dependencies

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup      ## start everything, make one picture, show it, stop everything
	@$(BIN)/fleet demo

up: setup        ## the whole stack in the foreground; Ctrl-C stops it
	@$(BIN)/fleet up

test: setup      ## the tests (services that are not there are skipped)
	@$(BIN)/python -m pytest

check: setup     ## what CI runs: lint, types, import rules, tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest

bench: setup     ## the measurements quoted in bench/README.md
	@$(BIN)/python -m bench.overhead
	@$(BIN)/python -m bench.submit
	@$(BIN)/python -m bench.waiting

clean:           ## remove the virtual environment and the local data directory
	rm -rf $(VENV) .fleet build dist *.egg-info
