# Two commands do everything on a machine with Python 3.11+ and make: `make demo` and `make test`.
# Each sets up .venv in the checkout first, from PyPI alone.

# The first of these that is Python 3.11 or newer; `make PYTHON=/path/to/python test` chooses another.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python
ifndef PYTHON
PYTHON := $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
endif

BIN := .venv/bin
STAMP := .venv/.stamp
# A checkout elsewhere on the path would be tested in place of this one.
unexport PYTHONPATH

.PHONY: demo test lint types unit slow environments format lowest wheel wheel-test docs docs-refresh clean help

help:
	@echo "make demo        plan, convert, audit and run the tiny model that comes along"
	@echo "make test        lint, types, tests (about two minutes)"
	@echo "make slow        the tests that take longer"
	@echo "make environments  tests against other versions and programs, installed from PyPI"
	@echo "make format      let ruff rewrite what it can"
	@echo "make docs        build the documentation as a site, in build/site"
	@echo "make docs-refresh  write the output and help texts in README.md and docs/ anew"
	@echo "make wheel-test  build the wheel, install it elsewhere, run it"
	@echo "make lowest      the tests against the oldest dependencies that pyproject.toml allows"
	@echo "make clean       remove .venv and everything built"

.DEFAULT_GOAL := help

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "mlxquant needs Python 3.11 or newer; none of these is: $(CANDIDATES)." >&2; \
		echo "Install one, or say where it is: make PYTHON=/path/to/python3.11 test" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		"mlxquant needs Python 3.11 or newer; $(PYTHON) is %d.%d" % v[:2])'
	@test -f $@ || $(PYTHON) -m venv --clear .venv || { \
		echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/mlxquant demo

test: lint types unit

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

# A file's tests stay in one process: its fixtures are made once, and a kernel is compiled once.
unit: $(STAMP)
	@$(BIN)/python -m pytest -n auto --dist loadfile

slow: $(STAMP)
	@$(BIN)/python -m pytest -n auto --dist loadfile -m "slow and not network"

# Versions and programs that are not installed here, each in an environment of its own; kept in .venvs between runs.
environments: $(STAMP)
	@MLXQUANT_ENVIRONMENTS=1 MLXQUANT_TEST_VENVS=.venvs $(BIN)/python -m pytest -n auto --dist loadfile -m environments

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)
	@test -x $(BIN)/mkdocs || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

docs-refresh: $(STAMP)
	@$(BIN)/python -m tests.support.pages --slow

# The sdist first and the wheel from it, so that both are known to be whole.
wheel: $(STAMP)
	@rm -rf dist
	@$(BIN)/python -m hatchling build -t sdist
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist dist/mlxquant-*.tar.gz

wheel-test: wheel
	@rm -rf build/wheel-test
	@$(PYTHON) -m venv build/wheel-test/venv
	@build/wheel-test/venv/bin/python -m pip install --quiet --disable-pip-version-check dist/mlxquant-*.whl
	@cd build/wheel-test && venv/bin/mlxquant --help && venv/bin/mlxquant recipes

# uv resolves to lower bounds; pip cannot. transformers is mlx-lm's dependency: its own lower bound.
lowest: $(STAMP)
	@$(PYTHON) -m venv --clear build/lowest
	@build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	@build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python \
		--resolution lowest-direct --editable '.[dev]' 'transformers>=5.7.0'
	@build/lowest/bin/python -m pytest

clean:
	@rm -rf .venv .venvs build dist demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
