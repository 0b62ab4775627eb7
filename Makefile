# Everything that is run in this repository; `make help` lists it.
PYTHON ?= python3
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
DOC_TESTS := tests/unit/test_docs.py tests/unit/events/test_event_table.py tests/unit/test_tidy.py

# Tests start hundreds of processes: each would compile the package again, and each worker of pytest all tests.
unexport PYTHONDONTWRITEBYTECODE
# The fast loop on two cores: the checkers run beside the tests, unless something else is asked for in the same call.
ifneq ($(MAKECMDGOALS),)
ifeq ($(filter-out lint types layers unit,$(MAKECMDGOALS)),)
MAKEFLAGS += --jobs=2
endif
endif

.DEFAULT_GOAL := help
.PHONY: help setup lint types layers unit docs test browser cover bench advisories mutants campaign siege hostile fuzz demo format clean

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

setup: $(STAMP) ## make .venv with the package and what developing it takes

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11: install Python 3.11, or run make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "the venv module of $(PYTHON) is missing: run apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: $(STAMP) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## check types with mypy and pyright
	@$(BIN)/mypy & checked=$$!; $(BIN)/basedpyright; found=$$?; wait $$checked && exit $$found # at the same time

layers: $(STAMP) ## check that each layer imports only those below it
	$(BIN)/lint-imports

unit: $(STAMP) ## run the unit tests and the stories
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -q tests/unit tests/stories

docs: $(STAMP) ## check what README and docs/ say: links, names, examples, tables
	$(BIN)/pytest -q $(DOC_TESTS)

test: lint types layers ## check all of that, then run every test
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

browser: $(STAMP) ## look at the dashboard in Debian's Chromium, which must be installed: apt-get install chromium npm
	@command -v chromium > /dev/null || { echo "Chromium is missing: run apt-get install chromium"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	@mkdir -p $(VENV)/axe && cd $(VENV)/axe && test -f axe.min.js \
		|| { npm pack --silent axe-core@4 && tar -xzf axe-core-*.tgz --strip-components=1 package/axe.min.js; }
	$(BIN)/pytest -q tests/browser

advisories: $(STAMP) ## ask whether a known weakness is in what users install, by pip-audit, which goes into .venv/audit
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit \
		&& $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(BIN)/python -m tests.advisories $(VENV)/audit/bin/pip-audit

cover: $(STAMP) ## measure which lines unit tests, stories and a small campaign run
	$(BIN)/coverage erase
	FORGE_SEEDS=20 $(BIN)/coverage run -m pytest -q tests/unit tests/stories tests/simulation/test_simulation.py \
		--deselect tests/unit/events/test_bus.py::test_publishing_costs_next_to_nothing # it measures time, which tracing takes
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(STAMP) ## measure this system beside others that are installed: SYSTEMS=own,etcd ROUNDS=3 SECONDS=5 READS=1
	$(BIN)/python -m tests.benchmarks.peers $(if $(SYSTEMS),--systems $(SYSTEMS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(READS),--reads)

mutants: $(STAMP) ## run the campaign against nodes with faults put in on purpose; each must be found
	$(BIN)/python -m tests.simulation.mutants --jobs $(WORKERS)

campaign: $(STAMP) ## run many seeds: SEEDS=10000 FIRST=0 JOBS=2 MINUTES=30 SECONDS=8 NODES=5 HARD=1 STATE=file; again to go on
	$(BIN)/python -m forge_consensus.testing.campaign --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(NODES),--nodes $(NODES)) $(if $(PACE),--pace $(PACE)) $(if $(SECONDS),--seconds $(SECONDS)) \
		$(if $(HARD),--hard) $(if $(STATE),--state $(STATE))

siege: $(STAMP) ## kill, stop and cut off real nodes under load for MINUTES=5 (SECURE=1: encrypted, certificates, roles), and judge what clients saw
	$(BIN)/python -m tests.cluster.siege --minutes $(or $(MINUTES),5) $(if $(SECURE),--secure)

hostile: $(STAMP) ## attack three real nodes with FRAMES=1000000 CONNECTIONS=10000 (SECURE=1: encrypted), beside an honest client
	$(BIN)/python -m tests.cluster.hostile --frames $(or $(FRAMES),1000000) --connections $(or $(CONNECTIONS),10000) \
		$(if $(SECURE),--secure)

fuzz: $(STAMP) ## fuzz TARGET=frame (event command snapshot configuration body) for SECONDS=60 with atheris, which is installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python -m tests.fuzz $(or $(TARGET),frame) --seconds $(or $(SECONDS),60)

demo: $(STAMP) ## start a cluster of three, put it under load and end its leader (SECURE=1: all encrypted)
	$(BIN)/forge-consensus demo --seconds 15 $(if $(SECURE),--secure)

format: $(STAMP) ## format the code and repair what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv and everything built or cached
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache htmlcov .coverage* .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
