# Two lines work from a clean clone on a machine with Python (3.10 up), git and make:
#   make demo    an answer from a small real model on real data, on any machine
#   make test    linters, types, import contracts and tests
#
# Where there is no NVIDIA driver, torch is pinned by constraints-cpu.txt. If your package index offers only CUDA builds for that
# version, name PyTorch's index of CPU wheels: make demo TORCH_INDEX=<its address>.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
CONSTRAINT = $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
INDEX = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
MODEL = .cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test lint clean

demo: $(VENV)/.demo $(MODEL)
	$(VENV)/bin/rightrank demo --model $(MODEL)

test: $(VENV)/.test lint
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

lint: $(VENV)/.test
	$(VENV)/bin/ruff check --no-cache .
	$(VENV)/bin/ruff format --no-cache --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(MODEL): scripts/fetch_demo_model.py | $(VENV)/.demo
	$(VENV)/bin/python scripts/fetch_demo_model.py $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints-cpu.txt | $(VENV)/bin/python
	$(PIP) $(CONSTRAINT) $(INDEX) torch
	$(PIP) $(CONSTRAINT) -e '.[gguf]'
	touch $@

$(VENV)/.test: pyproject.toml constraints-cpu.txt | $(VENV)/bin/python
	$(PIP) $(CONSTRAINT) $(INDEX) torch
	$(PIP) $(CONSTRAINT) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .cache build dist
