# make demo: the whole toolbox on synthetic data, in minutes on a CPU.  make test: lint-free code that works.
# Each sets itself up in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test lint format docs clean

demo: $(STAMP)
	$(PY) -m vireid demo

test: $(STAMP)
	$(PY) -m pytest

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

$(VENV)/.docs: $(STAMP)
	$(PY) -m pip install --progress-bar off --quiet -e '.[docs]'
	touch $@

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --progress-bar off --quiet -e '.[dev,lite,video,gallery,serve,postgres,onnx]'
	touch $@

clean:
	rm -rf $(VENV) build/site .mypy_cache .pytest_cache .ruff_cache
