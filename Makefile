# make run     install what is missing, build, and open Octet with its demo model
#              (without a display: the same conversation in the terminal)
# make test    everything that has to pass before a commit
# make help    all targets

# Where setup puts Rust and, where the system's is too old, Node.
export PATH := $(CURDIR)/.node/bin:$(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
OCTET := target/release/octet

# Seconds that `make fuzz` gives each target.
FUZZ_SECONDS ?= 60

# macOS always has a display.
DISPLAYS := $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname))

.DEFAULT_GOAL := help
.PHONY: help run app chat build page deb test fmt lint ptx unit ui smoke measure fuzz bench clean

help:
	@sed -n 's/^# \(make .*\|  .*\)/\1/p' Makefile
	@echo 'make app     the window, built and started'
	@echo 'make chat    the conversation in the terminal'
	@echo 'make build   the command line alone: $(OCTET)'
	@echo 'make deb     a package for Debian and Ubuntu'
	@echo 'make fmt     format all code'
	@echo 'make lint    formatting and clippy, warnings being errors'
	@echo 'make ptx     the CUDA kernels compiled again and compared (Linux on x86-64; needs no GPU)'
	@echo 'make unit    the tests of the Rust crates'
	@echo 'make ui      the checks and tests of the page'
	@echo 'make smoke   the real window, driven under a virtual display (Linux)'
	@echo 'make measure figures of the window: start, memory, speed (Linux)'
	@echo 'make fuzz    coverage-guided fuzzing (nightly Rust and cargo-fuzz)'
	@echo 'make bench   speed of the matrix kernels'

ifeq ($(strip $(DISPLAYS)),)
run:
	@echo 'There is no display here: the same conversation, in the terminal.'
	@$(MAKE) --no-print-directory chat
else
run: app
endif

app:
	@sh .ci/setup app
	@$(MAKE) --no-print-directory page
	cargo build --release --locked --package octet-app --features custom-protocol
	target/release/octet-app

# Without a terminal to type into, one question shows that it works.
chat: build
	@if [ -t 0 ]; then $(OCTET) chat; else \
	    echo '> What is Octet?'; $(OCTET) generate --message 'What is Octet?'; \
	    echo; echo 'To talk: $(OCTET) chat'; fi

build:
	@sh .ci/setup
	cargo build --release --locked --package octet-cli

# The page: its packages, when they changed, and ui/dist.
page: ui/node_modules/.package-lock.json
	npm --prefix ui run --silent build

ui/node_modules/.package-lock.json: ui/package-lock.json
	npm --prefix ui ci --no-audit --no-fund

deb:
	@sh .ci/setup app
	@$(MAKE) --no-print-directory page
	cd src-tauri && ../ui/node_modules/.bin/tauri build --bundles deb

test:
	@sh .ci/setup test
	@$(MAKE) --no-print-directory page lint ptx unit ui smoke

fmt:
	cargo fmt --all

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

ptx:
	.ci/ptx --check

# Seeded fuzzing of everything that reads a file from outside is among the tests.
# With the page in the app, so that `make smoke` finds it built.
unit: page
	@if cargo nextest --version >/dev/null 2>&1; then \
	    set -x; cargo nextest run --workspace --locked --features octet-app/custom-protocol && \
	    cargo test --doc --locked -p octet-engine -p octet-kernels; \
	else \
	    set -x; cargo test --workspace --locked --features octet-app/custom-protocol; \
	fi

ui: page
	npm --prefix ui test
	npm --prefix ui run e2e

smoke: page
	@if [ "$$(uname)" = Linux ]; then sh .ci/smoke; \
	else echo 'make smoke drives WebKitGTK: Linux only, left out here.'; fi

measure: page
	sh .ci/measure

fuzz:
	cd tests/fuzz && for target in header index config gguf; do \
	    cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench:
	cargo bench --locked --package octet-kernels

clean:
	cargo clean
	rm -rf ui/node_modules ui/dist ui/dist-e2e .node .python
