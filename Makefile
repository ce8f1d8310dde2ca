# make demo: the whole toolbox on synthetic data, in minutes on a CPU.  make test: all tests; make lint: style and types.
# Each sets itself up in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test lint format docs wheel clean

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
	$(PY) -m pip install --progress-bar off --quiet -e '.[dev,lite,video,gallery,serve,postgres,onnx,ray]'
	touch $@

# The wheel in an environment of its own that sees the dependencies of .venv but not the checkout, run outside of it.
wheel: $(STAMP)
	rm -rf build/wheel
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	$(PY) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --no-deps build/wheel/vireid-*.whl
	$(PY) -c 'import site; print(site.getsitepackages()[0])' > "$$(echo build/wheel/venv/lib/python3*/site-packages)/dependencies.pth"
	cd build/wheel && venv/bin/python -c 'import vireid; assert "build/wheel/venv" in vireid.__file__, vireid.__file__'
	cd build/wheel && for words in --version methods doctor "demo --fast"; do venv/bin/vireid $$words || exit 1; done

clean:
	rm -rf $(VENV) build/site .mypy_cache .pytest_cache .ruff_cache
