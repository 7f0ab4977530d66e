# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One more than two cores, as tests wait for servers and processes half of the time.
WORKERS ?= 3
PIP_FLAGS := --quiet --disable-pip-version-check
WHEEL_VENV := $(CURDIR)/build/wheel-venv

.PHONY: demo test docs notebooks commands bench canary everywhere pytest lint types format wheel clean

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[langchain,demo]' --group dev
	touch $@

demo: $(READY)
	$(BIN)/pipelit-agents demo $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy pipelit_agents tools graphs

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel, in an environment of its own: what it imports, and what its types say to a consumer.
wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist . > /dev/null
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install $(PIP_FLAGS) "$$(echo dist/*.whl)[demo]"
	cd tests && $(WHEEL_VENV)/bin/python -P consumer.py
	cd tests && ../$(BIN)/mypy --strict --python-executable $(WHEEL_VENV)/bin/python consumer.py
	cd build && $(WHEEL_VENV)/bin/pipelit-agents demo --json > /dev/null

# The documentation's pages, with the reference from the docstrings; after `make wheel`.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# The notebooks, from top to bottom, each in a kernel of its own.
notebooks: $(READY)
	$(BIN)/python -m pytest --nbmake notebooks -n $(WORKERS) -q

# docs/commands.md, from the help texts.
commands: $(READY)
	$(BIN)/python tests/commands_page.py

# What things cost, each beside something else in the same run; it writes benchmarks/RESULTS.md.
bench: $(READY)
	$(BIN)/python -m pip install $(PIP_FLAGS) --group bench
	$(BIN)/python benchmarks/side_by_side.py --write
	$(BIN)/python benchmarks/growth.py

# Mistake by channel on three checkpointers, with pipelit-agents and without.
canary: $(READY)
	cd tests && ../$(BIN)/python canary.py

pytest: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS)

# Every test that stands on a database, on each kind of it: some minutes more than `make test`.
everywhere: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --everywhere

# In this order, also under `make -j`; the tests last, so that their count is the last line.
test: $(READY)
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory -j2 types wheel
	$(MAKE) --no-print-directory -j2 docs notebooks
	$(MAKE) --no-print-directory pytest

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
