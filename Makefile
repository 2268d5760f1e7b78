# Two lines work from a clean clone on a machine with Python (3.10 up), git and make:
#   make demo    an answer from a small real model on real data, on any machine
#   make test    linters, types, import contracts and tests
#
# make test-oldest runs a part of the tests on the oldest versions that pyproject.toml allows; make audit asks whether anything that is
# installed is known to be vulnerable.
#
# Where there is no NVIDIA driver, torch is pinned by constraints-cpu.txt. If your package index offers only CUDA builds for that
# version, name PyTorch's index of CPU wheels: make demo TORCH_INDEX=<its address>.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
CONSTRAINT = $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
INDEX = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
# Several gigabytes without an index of CPU wheels; make test-oldest OLDEST_TORCH='-c constraints-cpu.txt torch' spares them, and tests less.
OLDEST_TORCH ?= torch==2.9.0
PIP_OLDEST = .venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt
# What touches every dependency: rows, tokens against TRL, GGUF, PEFT's files, 4 bits, the bank, Ray, a probe, the command line, the reports.
OLDEST_TESTS = tests/data tests/report tests/bank/test_adapter_file.py tests/bank/test_cut.py tests/bank/test_equals_peft.py \
  tests/bank/test_model_files.py tests/bank/test_peft_format.py tests/bank/test_quantized.py tests/executors/test_local.py tests/executors/test_ray.py \
  tests/probe/test_run.py tests/recommend/test_api.py tests/cli/test_bad_input.py tests/cli/test_config.py tests/stats/test_paired.py \
  tests/trainers/test_peft_config.py tests/runs/test_durable.py tests/runs/test_run_directory.py tests/test_versions.py
# What older versions do otherwise: TRL up to 1.14.0 masks a token that prompt and completion share, transformers up to 5.20 runs
# Gemma 2 without its soft cap, and PEFT up to 0.20 warns where there is no need to.
OLDEST_OPTIONS = --ignore tests/report/test_browser.py \
  --deselect tests/data/test_tokens.py::test_strings_without_template_equal_trl \
  --deselect tests/bank/test_quantized.py::test_a_model_that_needs_its_own_attention_loads_from_a_folder \
  -W "ignore:Could not find a config file:UserWarning" -W "ignore:Model has:UserWarning"
MODEL = .cache/demo/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: demo test lint test-oldest audit clean

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
	$(PIP) --no-deps -r tests/trainers/schemas.txt
	touch $@

test-oldest: .venv-oldest/.test
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 -p no:cacheprovider $(OLDEST_OPTIONS) $(OLDEST_TESTS)

# TRL goes in without its dependencies: it asks for a newer `datasets` than reading rows needs, and works with this one.
.venv-oldest/.test: pyproject.toml constraints-cpu.txt constraints-oldest.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check $(INDEX) $(OLDEST_TORCH)
	$(PIP_OLDEST) -e '.[data,gguf,4bit,ray]' peft pytest pytest-timeout pytest-xdist hypothesis
	$(PIP_OLDEST) --no-deps trl
	touch $@

# Strict: a package that the service does not know fails too, where by default it is passed over in silence.
audit: $(VENV)/.test
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/bin/python -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r .venv-audit/installed.txt

clean:
	rm -rf $(VENV) .venv-oldest .venv-audit .cache build dist
