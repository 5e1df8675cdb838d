# Each target makes what it needs and first says what it does. `make help` lists them; .ci/run calls the same ones.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock pyproject.toml

# Where it is set, as in many a container, each of the thousand interpreters that tests start compiles penstock, and each
# of pytest's processes all tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# The first prerequisite of each target: the line that `make help` has for it.
.PHONY: FORCE
say-%: FORCE
	@echo "make $*: $$(sed -n 's/^$*:.*## //p' $(MAKEFILE_LIST))"

.PHONY: demo
demo: say-demo $(VENV)/.develop $(VENV)/.bench ## Run the main job: 16 GETs of 8 MiB to RAM, files and mappings, with a table and a picture
	$(BIN)/python -m penstock.bench demo

.PHONY: test
test: say-test test-rust test-python ## Run the Rust tests, the models of the concurrent parts, and the Python tests

# Half of the time tests wait: there is a process more than CPUs.
IN_PROCESSES = $(BIN)/python -m pytest --dist=worksteal \
	-n $$($(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

.PHONY: test-rust
test-rust: say-test-rust ## Run the Rust tests (nextest if present, else cargo test), then the models under loom
	@# Tests count what the whole process holds: one a process, or one at a time.
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run -p penstock-core; else cargo test -p penstock-core -- --test-threads=1; fi
	@# Only what takes its primitives from the core's `sync` runs under loom; the bound keeps it to seconds.
	CARGO_TARGET_DIR=target/loom CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 \
		cargo test -p penstock-core --lib --release -- dispatch:: permit:: handover::

.PHONY: test-python
test-python: say-test-python $(VENV)/.develop $(VENV)/.test ## Run the Python tests, in up to 4 processes
	$(IN_PROCESSES) -m "not alone"
	@# What says how late a loop was runs by itself, afterwards. To collect all tests for the few takes a while.
	$(BIN)/python -m pytest -m alone $$(grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)

.PHONY: programs
programs: say-programs ## Build the benchmarks' native programs, unoptimised (needs OpenSSL's headers)
	@# What they do is tested, and not how fast: beside what the benchmarks build of them.
	for folder in floor upstream today core; do CARGO_PROFILE_DEV_DEBUG=false cargo build --quiet --locked \
		--manifest-path benches/rust/$$folder/Cargo.toml --target-dir target/$$folder || exit; done

.PHONY: test-programs
test-programs: say-test-programs programs $(VENV)/.develop $(VENV)/.test ## Run each of the benchmarks' native programs as a row (needs OpenSSL's headers)
	PENSTOCK_REQUIRE_ALL=1 $(BIN)/python -m pytest tests/bench/test_programs.py

.PHONY: test-handover
test-handover: say-test-handover $(VENV)/.develop $(VENV)/.test ## Run the Python tests of what is tied to versions of CPython, and its stress suite
	$(IN_PROCESSES) tests/blocking/test_handover*.py

MACOS := aarch64-apple-darwin

.PHONY: lint
lint: say-lint $(VENV)/.develop $(VENV)/.lint $(VENV)/.test ## Check formats, clippy, ruff, strict mypy, the stubs, where unsafe stands, and the documentation's tables
	cargo fmt --check
	PYO3_PYTHON="$(abspath $(BIN))/python" cargo clippy --workspace --all-targets -- -D warnings
	@# Workspaces of their own: all are formatted, and what calls the core must go on compiling when the core changes.
	for manifest in benches/rust/*/Cargo.toml fuzz/Cargo.toml; do cargo fmt --check --manifest-path $$manifest || exit; done
	for folder in core micro; do CARGO_TARGET_DIR=target/lint-benches \
		cargo clippy --quiet --locked --all-targets --manifest-path benches/rust/$$folder/Cargo.toml -- -D warnings || exit; done
	@# Nothing is linked, so the fuzzer's own C++ needn't be built.
	CUSTOM_LIBFUZZER_PATH=/dev/null CARGO_TARGET_DIR=target/lint-benches \
		cargo clippy --quiet --locked --manifest-path fuzz/Cargo.toml -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest penstock._native --allowlist tests/types/stubtest-allowlist.txt --ignore-unused-allowlist
	$(BIN)/python docs/check_from_rust.py
	$(BIN)/python docs/check_unsafe.py
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/$(MACOS)" ]; then $(MAKE) --no-print-directory lint-macos; \
		else echo "the Rust target $(MACOS) is not installed: what is compiled for macOS was not checked"; fi
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: deny.toml was not checked"; fi

.PHONY: lint-macos
lint-macos: say-lint-macos ## Check what is compiled for macOS by clippy, from any machine that has its Rust target
	@# Nothing is linked, so what is in C needn't be compiled.
	CC_$(subst -,_,$(MACOS))=true AR_$(subst -,_,$(MACOS))=true PYO3_CROSS=1 PYO3_CROSS_PYTHON_VERSION=3.11 \
		CARGO_TARGET_DIR=target/lint-macos cargo clippy --quiet --workspace --all-targets --target $(MACOS) -- -D warnings

.PHONY: docs
docs: say-docs $(VENV)/.docs ## Build the documentation into target/docs, strictly
	$(BIN)/python -m mkdocs build --strict --quiet --site-dir target/docs

.PHONY: bench
bench: say-bench $(VENV)/.develop $(VENV)/.bench ## Measure the scenarios against the floor and the peers (minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.run

.PHONY: bench-client
bench-client: say-bench-client $(VENV)/.develop $(VENV)/.bench ## Measure the client beside others (10 minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.client

.PHONY: bench-client-close
bench-client-close: say-bench-client-close $(VENV)/.develop $(VENV)/.bench ## Measure TLS beside aiohttp, and the client's policies, 600 times each (an hour; needs a quiet machine)
	$(BIN)/python -m benches.python.client --rounds 38 --batches 16 --rows '^tls/.*/(penstock|aiohttp)$$|^(tls|plain) (fs|mmap)' \
		--json bench-out/client-close.json

.PHONY: bench-close
bench-close: say-bench-close $(VENV)/.develop $(VENV)/.bench ## Measure what is to be close to another row 600 times each (45 minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.run --rounds 30 --batches 20 --json bench-out/close.json \
		--rows '(fs|mmap)_(direct|permit|dispatch)/.*/penstock$$|^ram/length/(penstock|aiohttp tuned|pyreqwest .*)$$'

.PHONY: bench-blocking
bench-blocking: say-bench-blocking $(VENV)/.develop $(VENV)/.bench ## Measure ways to run blocking work (10 minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.blocking

.PHONY: compare
compare: say-compare $(VENV)/.develop $(VENV)/.bench ## Remake upstream's tables, Rust and Python side by side (90 minutes; QUICK=1: 15; needs a quiet machine)
	$(BIN)/python -m benches.cross.compare $(if $(QUICK),--quick)

.PHONY: bench-archives
bench-archives: say-bench-archives $(VENV)/.develop ## Read and write archives beside upstream's Rust (4 minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.archives

.PHONY: bench-micro
bench-micro: say-bench-micro $(VENV)/.develop $(VENV)/.bench ## Measure the smallest operations: Rust's by criterion, Python's by pyperf, and the import (5 minutes)
	CARGO_TARGET_DIR="$(abspath target/micro)" cargo bench --quiet --locked --manifest-path benches/rust/micro/Cargo.toml
	$(BIN)/python -m benches.python.micro
	$(BIN)/python -m benches.python.import_time

.PHONY: bench-compare
bench-compare: say-bench-compare $(VENV)/.develop $(VENV)/.bench ## Measure penstock beside its revision BASE (10 minutes and a build; needs a quiet machine)
	$(BIN)/python -m benches.cross.revisions $(BASE)

.PHONY: bench-handover
bench-handover: say-bench-handover $(VENV)/.develop $(VENV)/.bench ## Measure block_in_place (three minutes; needs a quiet machine)
	$(BIN)/python -m benches.python.handover

.PHONY: bench-reaper
bench-reaper: say-bench-reaper $(VENV)/.develop ## Measure what a loop notices of large bodies that are dropped (one minute; needs a quiet machine)
	$(BIN)/python -m benches.python.reaper

.PHONY: develop
develop: say-develop $(VENV)/.develop ## Build the release extension into .venv

.PHONY: nightly
nightly: say-nightly $(VENV)/.develop $(VENV)/.test ## Run the long suites: more examples, longer soaks
	PENSTOCK_NIGHTLY=1 $(BIN)/python -m pytest --timeout=600

INTEROP := target/interop/bin/barc

# Without --locked: what its lock file names is long out of date.
$(INTEROP):
	cargo install --quiet barc-cli --version '^2.2' --root target/interop --target-dir target/interop/build

.PHONY: interop
interop: say-interop $(INTEROP) $(VENV)/.develop $(VENV)/.test ## Exchange archives with upstream's barc in both directions (installs it; needs OpenSSL's headers)
	PENSTOCK_REQUIRE_ALL=1 $(BIN)/python -m pytest tests/barc/test_interop.py

.PHONY: stress
stress: say-stress $(VENV)/.develop $(VENV)/.test ## Run the stress suites for minutes
	PENSTOCK_STRESS=1 PENSTOCK_STRESS_SECONDS=600 $(BIN)/python -m pytest -m slow --timeout=1200

SECONDS ?= 60
FUZZ_TARGETS := barc_head barc_fields barc_records codings response
FUZZ_HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# What cargo-fuzz gives the compiler, which a stable one takes, too.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions

.PHONY: fuzz
fuzz: say-fuzz ## Run the fuzz targets, each for SECONDS=60
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target $(FUZZ_HOST) --target-dir target/fuzz
	@for target in $(FUZZ_TARGETS); do \
		echo "$$target"; mkdir -p target/fuzz/found/$$target; \
		seeds=; if [ $$target = barc_records ]; then seeds=tests/data/barc; fi; \
		target/fuzz/$(FUZZ_HOST)/release/$$target -max_total_time=$(SECONDS) -max_len=65536 -print_final_stats=1 \
			-verbosity=0 -artifact_prefix=target/fuzz/$$target- target/fuzz/found/$$target $$seeds || exit 1; \
	done

.PHONY: dist
dist: say-dist $(VENV)/.build ## Make the sdist and the wheel in dist, install both, and check what they hold
	rm -rf dist
	$(BIN)/maturin sdist --out dist
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/maturin build --release --locked --interpreter $(BIN)/python --out dist
	$(BIN)/python .ci/check_dist.py dist

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is {sys.version.split()[0]}: penstock needs CPython 3.11 or newer (make PYTHON=python3.13)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.%: requirements/%.txt | $(VENV)/.venv
	$(BIN)/python -m pip install --quiet -r $<
	@touch $@

$(VENV)/.develop: $(SOURCES) $(VENV)/.build
	PATH="$(abspath $(BIN)):$$PATH" VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/maturin develop --release --quiet
	@touch $@
