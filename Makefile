# make run     install what is missing, build, show the engine at work on a bundled tiny model
# make test    everything that has to pass before a commit
# make help    all targets

CARGO ?= $(shell command -v cargo 2>/dev/null || echo "$${CARGO_HOME:-$$HOME/.cargo}/bin/cargo")
OCTET := target/release/octet
DEMO  := tests/fixtures/tiny-2bit

# Seconds that `make fuzz` gives each target.
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup build run test fmt lint unit fuzz bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo 'make setup   check for a C linker and Rust, and install them where possible'
	@echo 'make build   optimized build of the command line, in target/release/octet'
	@echo 'make fmt     format all code'
	@echo 'make lint    formatting and clippy, warnings being errors'
	@echo 'make unit    the tests alone'
	@echo 'make fuzz    coverage-guided fuzzing (nightly Rust and cargo-fuzz)'
	@echo 'make bench   speed of the matrix kernels'

setup:
	@sh .ci/setup

build: setup
	$(CARGO) build --release --locked --package octet-cli

run: build
	$(OCTET) inspect --model $(DEMO)
	@echo
	@echo 'A 300-token prompt is read, and 32 tokens follow (ids: this model has no tokenizer).'
	$(OCTET) generate --model $(DEMO) --tokens "$$(seq -s, 3 302)" --max-new-tokens 32 --temperature 0
	@echo
	@echo 'With a real model (README.md, "Getting a model"):'
	@echo '    $(OCTET) chat --model DIR'

test: setup lint unit

fmt:
	$(CARGO) fmt --all

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# Seeded fuzzing of everything that reads a checkpoint is among the tests.
unit:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --workspace --locked; \
	else \
	    set -x; $(CARGO) test --workspace --locked; \
	fi

fuzz:
	cd tests/fuzz && for target in header index config; do \
	    $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench:
	$(CARGO) bench --locked --package octet-kernels

clean:
	$(CARGO) clean
