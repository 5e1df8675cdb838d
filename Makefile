# Each target makes what it needs. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock pyproject.toml

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: $(VENV)/.develop $(VENV)/.bench ## Run the main job: 16 GETs of 8 MiB to RAM, files and mappings, with a table and a picture
	$(BIN)/python -m penstock.bench demo

.PHONY: test
test: test-rust test-python ## Run the Rust and the Python tests

.PHONY: test-rust
test-rust: ## Run the Rust tests (nextest if present, else cargo test), then the model checks
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run -p penstock-core; else cargo test -p penstock-core; fi

.PHONY: test-python
test-python: $(VENV)/.develop $(VENV)/.test ## Run the Python tests on $(PYTHON)
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/.develop $(VENV)/.lint $(VENV)/.test ## Check formats, clippy, ruff, strict mypy, the stubs, and the documentation's tables
	cargo fmt --check
	PYO3_PYTHON=$(abspath $(BIN))/python cargo clippy --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest penstock._native
	$(BIN)/python docs/check_from_rust.py

.PHONY: bench
bench: $(VENV)/.develop $(VENV)/.bench ## Measure the scenarios against the floor and the peers (minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.run

.PHONY: develop
develop: $(VENV)/.develop ## Build the release extension into .venv

.PHONY: nightly
nightly: $(VENV)/.develop $(VENV)/.test ## Run the long suites: more examples, longer soaks
	PENSTOCK_NIGHTLY=1 $(BIN)/python -m pytest --timeout=600

.PHONY: stress
stress: $(VENV)/.develop $(VENV)/.test ## Run the stress suites for minutes
	PENSTOCK_STRESS=1 $(BIN)/python -m pytest -m slow --timeout=1200

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.%: requirements/%.txt | $(VENV)/.venv
	$(BIN)/python -m pip install --quiet -r $<
	@touch $@

$(VENV)/.develop: $(SOURCES) $(VENV)/.build
	PATH="$(abspath $(BIN)):$$PATH" VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet
	@touch $@
