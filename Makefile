# `make` shows what there is. Settings: PYTHON=… (which Python makes the environment), VENV=… (where it stands).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?=
# Most tests wait for other processes most of the time, so that two processors serve three well.
JOBS ?= 3
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LINKS := tasks beat_schedules examples

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

# The first that runs, is new enough and can make environments (Debian ships venv apart from Python).
define FIND_PYTHON
try() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
python=; \
for name in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
	if try "$$name"; then python=$$name; break; fi; \
done; \
if [ -z "$$python" ]; then \
	echo "make: no Python 3.11 or newer found as $(or $(PYTHON),python3.13 python3.12 python3.11 python3)." >&2; \
	echo "      Debian, Ubuntu: apt-get install python3 python3-venv. Or name one: make PYTHON=/path/to/python3.11" >&2; \
	exit 1; \
fi
endef

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: dev
dev: $(STAMP) ## Set up .venv with everything; instant when nothing changed
	@for name in $(LINKS); do \
		if [ ! -e "llmteam/$$name/__init__.py" ]; then \
			echo "make: llmteam/$$name must be a link to ../$$name, and is not one in this checkout." >&2; \
			echo "      Installing works without it; working in the tree does not. Where the file system knows links:" >&2; \
			echo "      git config core.symlinks true && git checkout -- llmteam/$$name" >&2; \
			exit 1; \
		fi; \
	done

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
		$(FIND_PYTHON); \
		echo "Making $(VENV) with $$("$$python" --version)"; \
		if ! "$$python" -m venv --clear $(VENV); then \
			echo "make: $$python cannot make an environment in $(VENV) (its words are above)." >&2; \
			echo "      Debian, Ubuntu: apt-get install python3-venv, then the same command again." >&2; \
			exit 1; \
		fi; \
	fi
	@echo "Installing into $(VENV) (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt 'setuptools>=77'
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[all,dev]'
	@touch $@

.PHONY: demo
demo: dev ## Run the example segment on real servers, from nothing
	@$(BIN)/llmteam run --example ticket-triage --watch

.PHONY: lint
lint: dev ## Check style, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: dev ## Put imports and format in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: test
test: lint ## Everything that CI runs: lint and all tests, JOBS=3 files at a time
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-unit
test-unit: dev ## The tests that need no server (ARGS="-k retry" picks some)
	$(BIN)/pytest tests/unit $(ARGS)

$(VENV)/.browser: $(STAMP)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[browser]'
	@touch $@

.PHONY: browser
browser: dev $(VENV)/.browser ## Test the web inbox in the machine's Chromium; pictures go to build/screenshots
	$(BIN)/pytest tests/browser $(ARGS)

.PHONY: simulate
simulate: dev ## Play histories of faults in virtual time: SEEDS=20000 of them, or SEED=17 alone
	LLMTEAM_TEST_SEEDS=$(or $(SEEDS),20000) $(if $(SEED),LLMTEAM_TEST_SEED=$(SEED)) \
		$(BIN)/pytest tests/simulated/test_simulation.py -k whatever_breaks $(ARGS)

.PHONY: bench
bench: dev ## Measure against raw Celery on the same servers (ARGS="--only limiter" measures some)
	$(BIN)/python -m bench $(ARGS)

.PHONY: chaos
chaos: dev ## Break workers, servers and messages under load; nothing may be lost or done twice
	$(BIN)/python -m chaos

.PHONY: hosts
hosts: dev ## Cut hosts off from their servers for a minute and join them again (ARGS="--only apart --rounds 3")
	$(BIN)/python -m hosts $(ARGS)

.PHONY: build
build: clean dev ## Build the sdist, and the wheel from it, into dist/
	$(BIN)/python -m build --no-isolation

.PHONY: constraints
constraints: ## Renew constraints.txt with the newest versions that fit together
	@$(FIND_PYTHON); \
	rm -rf build/constraints && "$$python" -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet '.[all,dev,browser]'
	@{ sed '/^[^#]/,$$d' constraints.txt; build/constraints/bin/python -m pip freeze --all --exclude llmteam --exclude pip; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints build/lib build/bdist.* llmteam.egg-info

.PHONY: clean
clean: ## Remove what builds and tools left (not .venv)
	rm -rf build dist *.egg-info .coverage htmlcov .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
