# The one place that says how to set up, try, test and run Comfyline.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --no-input
# Most tests wait for processes, so they run side by side; a file's tests share fixtures and stay together. In the order
# of tests/conftest.py, for then the small ones of tests/unit come last, and nobody waits for one long file at the end.
# Hundreds of processes are started, and each would compile what it imports, where the environment forbids to keep
# bytecode.
# TESTS= takes a path, or any option of pytest, and then nothing is left out.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder \
	$(TESTS)
QUICK  := $(if $(TESTS),,-m "not slow")

.PHONY: help setup demo up test check mutants chaos bench clean
help:            ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready   ## virtual environment with the pinned dependencies

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Comfyline needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "[1/3] Virtual environment in $(VENV)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "[2/3] Pinned packages (a minute or two; log in $(VENV)/setup.log)"
	@{ $(PIP) --requirement requirements.lock 2>&1 || echo "setup failed"; } | tee $(VENV)/setup.log | awk \
		-v all="$$(grep -c '==' requirements.lock)" \
		'/^Collecting|^Requirement already/ { if (++n % 10 == 0) { printf "      %d of %d\n", n, all; fflush() } } \
		/^setup failed/ { bad = 1 } END { exit bad }' || { tail -n 15 $(VENV)/setup.log; exit 1; }
	@echo "[3/3] Comfyline itself"
	@$(PIP) --quiet --no-deps --editable .
	@touch $@

demo: setup      ## start everything, make one picture, show it, stop everything
	@$(BIN)/comfyline demo

up: setup        ## the whole stack in the foreground; Ctrl-C stops it
	@$(BIN)/comfyline up

test: setup      ## the tests but for the slow ones (services that are not there are skipped)
	@$(PYTEST) $(QUICK)

check: setup     ## what CI runs: lint, types, import rules, all tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST)

mutants: setup   ## seeded faults in the GPU worker's heart and the ledger, each of which a unit test has to notice
	@$(BIN)/python -m tests.mutation.run

chaos: setup     ## long runs in which a fleet under load is taken apart; COMFYLINE_TEST_CHAOS_SEED repeats one
	@$(BIN)/python -m pytest -s -m chaos tests/chaos

bench: setup     ## the measurements quoted in bench/README.md
	@$(BIN)/python -m bench.overhead
	@$(BIN)/python -m bench.overhead --slow-bucket 2
	@$(BIN)/python -m bench.submit
	@$(BIN)/python -m bench.access.key_cost
	@$(BIN)/python -m bench.waiting
	@$(BIN)/python -m bench.clients.websockets
	@$(BIN)/python -m bench.herd
	@$(BIN)/python -m bench.webhooks
	@$(BIN)/python -m bench.uploads
	@$(BIN)/python -m bench.storage
	@$(BIN)/python -m bench.models_fetch
	@$(BIN)/python -m bench.policy --quick
	@$(BIN)/python -m bench.scheduling.autoscale --quick --seeds 1
	@$(BIN)/python -m bench.metrics.scrape_cost

clean:           ## remove the virtual environment and the local data directory
	rm -rf $(VENV) .comfyline build dist *.egg-info
