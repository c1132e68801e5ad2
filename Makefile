# Plain `make` lists what there is to make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-docker test test-engines sim soak lint audit bpf bpf-check check bench install clean root

PREFIX ?= /usr/local
DESTDIR ?=
SEEDS ?= 500
MINUTES ?= 60
# The store is optimised there: a simulation spends its time in it.
SIM := --package pontoon-sim --features sim --config profile.dev.package.pontoon-store.opt-level=2
TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(PATH):$(abspath $(TARGET))/tools/bin:/usr/sbin:/sbin

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: root ## Three hosts, one overlay, and a leader that dies (KEEP=1 leaves the hosts up)
	@tests/setup.sh demo
	@cargo build --locked --package pontoon-node --package pontoon-cli --bins
	@KEEP=$(KEEP) tests/demo.sh

demo-docker: root ## Two hosts with a Docker Engine each, and what their administrator types (KEEP=1 leaves them up)
	@tests/setup.sh demo-docker
	@cargo build --locked --package pontoon-node --package pontoon-cli --package pontoon-tests --bin pontoond --bin pontoon --bin demo-docker
	@KEEP=$(KEEP) PONTOON_BIN_DIR=$(abspath $(TARGET))/debug $(TARGET)/debug/demo-docker

test: root ## Install what the tests need and run them all
	@tests/setup.sh test
	cargo nextest run --locked --workspace
	cargo test --locked --workspace --doc
	cargo nextest run --locked $(SIM)

test-engines: root ## The steps of the Docker scenario, and names, on the newest engine of Debian's unstable suite
	@tests/setup.sh engines
	cargo nextest run --locked --package pontoon-tests --ignore-default-filter --no-capture -E 'test(/newest_engine/)'

sim: ## SEEDS=500 whole clusters in a simulated world in which much goes wrong (SEED=7: that one, told; BUG=stale-read: planted)
	cargo run --quiet --locked $(SIM) -- \
	  $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(if $(BUG),--bug $(BUG))

soak: root ## MINUTES=60 of churn on a real cluster: memory, disk and kernel must stay flat, and nothing acknowledged be lost
	@tests/setup.sh demo
	cargo build --locked --package pontoon-node --package pontoon-cli --package pontoon-tests --bin pontoond --bin pontoon --bin soak
	PONTOON_BIN_DIR=$(abspath $(TARGET))/debug $(TARGET)/debug/soak --minutes $(MINUTES)

lint: bpf-check ## Formatting, lints, documentation, licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --package pontoon-sim --features sim --all-targets -- -D warnings
	cargo clippy --locked --package pontoon-node --features plaintext -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	cargo deny --workspace check licenses bans sources

audit: ## Known weaknesses of what is built in, from the RustSec database, which it fetches
	@tests/setup.sh check
	cargo deny --workspace check advisories

# Two minutes of the soak are enough for a leak that is quick; they come last, because they need the machine to themselves.
check: lint test ## Everything that must hold before a change goes in: lint, test, sim and a short soak, house rules among the tests
	@$(MAKE) --no-print-directory sim SEEDS=100
	@$(MAKE) --no-print-directory soak MINUTES=2

# The same compiler makes the same bytes. No debug information: it would name folders.
BPF := clang-14 -target bpf -O2 -Wall -Werror -I/usr/include/$(shell uname -m)-linux-gnu -c node/bpf/steer.c -o

bpf: ## Compile the program that steers names (node/bpf) anew
	@tests/setup.sh check
	$(BPF) node/bpf/steer.o

bpf-check: # What is in the repository is what its source comes to.
	@tests/setup.sh check
	@mkdir -p $(TARGET)
	$(BPF) $(TARGET)/steer.o
	cmp $(TARGET)/steer.o node/bpf/steer.o

bench: root ## Measure beside peers, on an idle machine (docs/benchmarks.md keeps what it printed)
	@tests/setup.sh bench
	cargo build --locked --release --package pontoon-node --features plaintext --bin pontoond
	mv $(TARGET)/release/pontoond $(TARGET)/release/pontoond-plaintext
	cargo build --locked --release --package pontoon-node --package pontoon-cli --package pontoon-tests --bins
	PONTOON_BIN_DIR=$(abspath $(TARGET))/release $(TARGET)/release/bench --markdown docs/benchmarks.md

install: ## Build for release and install: PREFIX=/usr/local, DESTDIR= for packagers
	cargo build --locked --release --package pontoon-node --package pontoon-cli --bins
	install -D -m 755 $(TARGET)/release/pontoond $(DESTDIR)$(PREFIX)/bin/pontoond
	install -D -m 755 $(TARGET)/release/pontoon $(DESTDIR)$(PREFIX)/bin/pontoon
	sed 's|/usr/local/bin|$(PREFIX)/bin|' node/dist/pontoond.service | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/pontoond.service
	install -D -m 644 node/dist/pontoond-docker.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/pontoond-docker.socket
	$(TARGET)/release/pontoon completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pontoon
	$(TARGET)/release/pontoon completion zsh | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pontoon
	$(TARGET)/release/pontoon completion fish | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/pontoon.fish
	$(TARGET)/release/pontoon man $(DESTDIR)$(PREFIX)/share/man/man1

clean: ## Remove what was built, and what a killed demo left
	cargo clean
	@[[ $$(id -u) -ne 0 ]] || tests/demo.sh down

root:
	@[[ $$(id -u) -eq 0 ]] || { echo "This makes network namespaces, which needs root: run it with sudo, or as root." >&2; exit 1; }
