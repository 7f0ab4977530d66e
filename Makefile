# `make demo` and `make test` set up everything they need in .venv; with PYTHON=python3.13, in
# .venv-3.13.
ifeq ($(origin PYTHON), undefined)
PYTHON := python3
VENV := .venv
else
VENV = .venv-$(VERSION)
endif
# pyenv's shim of a version that its user hasn't chosen doesn't start; the version is beside it.
FOUND := $(shell for each in $(PYTHON) $$(dirname "$$(command -v $(PYTHON) || echo /none/none)")/../versions/*/bin/$(PYTHON); \
	do "$$each" -c "" 2> /dev/null && echo "$$each" && break; done)
VERSION := $(if $(FOUND),$(shell $(FOUND) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
BIN = $(VENV)/bin
# Named after the version, so that another python3 than last time gets another environment.
READY := $(VENV)/.ready-$(VERSION)
# One more than two cores, as tests wait for servers and processes half of the time.
WORKERS ?= 3
# Tests start hundreds of processes; without stored bytecode each of them compiles our modules.
export PYTHONDONTWRITEBYTECODE :=
# `pip install`, by uv where that works; for the wheel's environment, which has no pip of its own.
INSTALL = $(BIN)/python tests/install.py
INSTALL_WHEEL = $(INSTALL) --python $(WHEEL_VENV)/bin/python
# Tests make thousands of small databases, and in memory these take a fifth less time.
MEMORY := $(shell free=$$(df -Pk /dev/shm 2> /dev/null | awk 'NR == 2 {print $$4}'); \
	test -w /dev/shm && test "$${free:-0}" -gt 3000000 && echo /dev/shm)
pytest quick everywhere: export TMPDIR := $(or $(MEMORY),$(TMPDIR),/tmp)
INSPECTOR := .node/node_modules/.bin/mcp-inspector
PYRIGHT := .node/node_modules/.bin/pyright
WHEEL_VENV := $(CURDIR)/build/wheel-venv

.PHONY: demo test docs notebooks commands api bench load pictures canary everywhere pytest quick lint types format wheel sdist \
	wheel-file wheel-packages wheel-checks test-bytecode test-wheel chromium smoke lowest verifytypes pythons aegra clean

define REQUIRE_PYTHON
$(if $(VERSION),,$(error $(PYTHON) doesn't start, so name another: make PYTHON=python3.12 ...))
$(FOUND) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
endef

$(READY): pyproject.toml
	$(REQUIRE_PYTHON)
	$(FOUND) -m venv $$(test -e $(BIN)/python$(VERSION) || echo --clear) $(VENV)
	$(INSTALL) --editable '.[langchain,sqlite,desk]' --group dev
	touch $@

demo: $(READY)
	$(BIN)/pipelit-agents demo $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package, the examples, and the Python blocks of the documentation.
types: $(READY)
	$(BIN)/python tests/support/typed_pages.py examples/*/*.py examples/*/*/*.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel, in an environment of its own: what it imports, what its types say to a consumer, and its
# MCP server and header with version 2 of the MCP SDK; the tests have version 1.
wheel: wheel-checks

wheel-file: $(READY)
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

wheel-packages: wheel-file
	$(FOUND) -m venv --without-pip $(WHEEL_VENV)
	$(INSTALL_WHEEL) "$$(echo dist/*.whl)[sqlite,desk,mcp]"

wheel-checks: wheel-packages
	$(BIN)/python tests/archives.py dist/*.whl
	$(BIN)/twine check --strict dist/*.whl
	cd tests && $(WHEEL_VENV)/bin/python -P consumer.py
	cd tests && $(WHEEL_VENV)/bin/python -P mcp_two.py
	cd tests && ../$(BIN)/mypy --strict --python-executable $(WHEEL_VENV)/bin/python consumer.py
	cd build && $(WHEEL_VENV)/bin/pipelit-agents demo --json > /dev/null

# The source archive: each file of the repository is in it, and tests run from it in an environment of
# its own, which takes half a minute.
sdist: $(READY)
	rm -f dist/*.tar.gz
	$(BIN)/python -m build --sdist --outdir dist .
	$(BIN)/twine check --strict dist/*.tar.gz
	$(BIN)/python tests/archives.py dist/*.tar.gz

# What the tests of the desk's pages are run in, and can't be installed by pip.
chromium:
	@sh tests/chromium.sh

# The wheel on each other Python of this machine that we claim to work on; after `make wheel`.
smoke: $(READY)
	$(BIN)/python tests/smoke.py dist/*.whl

# The tests of what depends on other packages, with the lowest version of each that we claim to work with.
lowest: $(READY)
	$(BIN)/python tests/lowest.py

# Fails unless pyright knows the type of every public name of the wheel; after `make wheel`. Types of other
# packages count as unknown where these aren't installed. LangGraph's folder has no __init__.py, and without
# one pyright doesn't find the types of the packages in it.
verifytypes: $(READY) $(PYRIGHT)
	$(INSTALL_WHEEL) "$$(echo dist/*.whl)[all]" opentelemetry-sdk
	touch $(WHEEL_VENV)/lib/python$(VERSION)/site-packages/langgraph/__init__.py
	PATH="$(WHEEL_VENV)/bin:$$PATH" VIRTUAL_ENV="$(WHEEL_VENV)" $(CURDIR)/$(PYRIGHT) \
		--verifytypes pipelit_agents --ignoreexternal

# Two processes of Aegra, in an environment of its own of Python 3.12 or newer, and what `test_aegra.py`
# asks of them. They take two minutes of CPU time, most of it Aegra's, so `make test` leaves them out.
aegra: $(READY)
	$(BIN)/python tests/aegra_environment.py
	$(BIN)/python -m pytest -n 0 tests/processes/test_aegra.py

# All tests on each of these, each in an environment of its own: some minutes a version.
pythons: $(READY)
	@set -e; for each in $$($(BIN)/python tests/smoke.py --list); do \
		echo "make pytest PYTHON=$$each"; \
		$(MAKE) --no-print-directory pytest PYTHON=$$each; \
	done

# The documentation's pages, with the reference from the docstrings of the wheel.
docs: wheel-file
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# The notebooks, from top to bottom, each in a kernel of its own.
notebooks: $(READY)
	$(BIN)/python -m pytest -p nbmake --nbmake notebooks -n $(WORKERS) -q

# docs/commands.md, from the help texts.
commands: $(READY)
	$(BIN)/python tests/commands_page.py

# docs/api.md, from the OpenAPI document of the desk.
api: $(READY)
	$(BIN)/python tests/api_page.py

# The pictures of docs/desk.md, from a real desk in Chromium.
pictures: $(READY) chromium
	$(BIN)/python tests/support/desk_pictures.py

# How long a desk takes to answer 500 requests a second of 50 clients, for 20 seconds.
load: $(READY)
	$(BIN)/python tests/support/desk_load.py $(ARGS)

# What things cost, each beside something else in the same run; it writes benchmarks/RESULTS.md.
bench: $(READY)
	$(INSTALL) --group bench
	$(BIN)/python benchmarks/side_by_side.py --write
	$(BIN)/python benchmarks/growth.py

# Mistake by channel on three checkpointers, with pipelit-agents and without.
canary: $(READY)
	cd tests/support && ../../$(BIN)/python canary.py

# All tests with two cases of each that needs a folder, on two of the kinds of database in turn, and one
# of each that takes a fifth of a second or more; CASES= runs all cases. Stealing keeps the tests
# of a module, and so the servers that they share, in one process.
CASES ?= --cases 2
pytest: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(CASES)

# While you work: no test that starts a process or a server, and few examples of each property.
quick: $(READY)
	$(BIN)/python -m pytest -m "not process" -n logical --dist worksteal -q

# The inspector of the MCP project, for one test of `make everywhere`: half a minute, once. npm takes
# the newest version that works with this Node.
$(INSPECTOR):
	command -v npm > /dev/null && npm install --silent --no-fund --no-audit --prefix .node \
		@modelcontextprotocol/inspector || echo "npm can't install the MCP inspector, so it isn't tried."

# The type checker that counts them, in half a minute, once.
$(PYRIGHT):
	npm install --silent --no-fund --no-audit --prefix .node pyright

# Every case of every test, on each kind of database, our MCP server with the inspector, and the wheel
# on other versions of Python: half an hour.
everywhere: $(READY) $(INSPECTOR)
	$(MAKE) --no-print-directory wheel sdist smoke lowest
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --everywhere

# Compile the tests and what they import. Otherwise each process of the tests does that for itself, at the
# same time as the others. What can't be imported is reported by `pytest`.
test-bytecode: $(READY)
	$(BIN)/python -m pytest --collect-only -n 0 > /dev/null 2>&1 || true

# By a make of its own, which goes on with it at once. The other steps would come first.
test-wheel: $(READY)
	$(MAKE) --no-print-directory wheel-checks docs

# In this order, also under `make -j`; the tests last, so that their count is the last line. Chromium is
# fetched while packages are. Of the steps in the middle the longest ones begin first.
test:
	$(MAKE) --no-print-directory -j2 $(READY) chromium
	$(MAKE) --no-print-directory -j2 test-wheel test-bytecode types notebooks lint
	$(MAKE) --no-print-directory pytest

clean:
	rm -rf .venv .venv-* .node build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
