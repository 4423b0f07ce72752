# What there is to type. `make` alone lists the targets.

CARGO ?= cargo
PREFIX ?= $(HOME)/.cargo

.DEFAULT_GOAL := help
.PHONY: help build demo test tools check fmt doc install instructions bench bench-tcp bench-journal fuzz audit ci clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the binary, optimised: target/release/sipstamp
	$(CARGO) build --release --locked

demo: ## the sidecar between a simulated dialer and telephony server, on this machine alone
	$(CARGO) run --release --locked --quiet -- demo

# The dev profile: it compiles in a fraction of the time that link-time optimisation of every test takes.
# Most tests wait most of the time: for calls, timers, processes.
test: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
test: tools ## all tests; installs SIPp, promtool and nats-server through apt where they are missing
	$(CARGO) test --locked

tools: ## what the tests need beside Rust: SIPp, promtool and nats-server
	@bash .ci/tools

check: ## what a change must pass before it is proposed: format, lints, documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

fmt: ## format the sources
	$(CARGO) fmt

doc: ## the code's documentation: target/doc/sipstamp/index.html
	$(CARGO) doc --locked --no-deps

install: ## the binary into ~/.cargo/bin; PREFIX=DIR for DIR/bin
	$(CARGO) install --locked --path . --root $(PREFIX)

instructions: ## instructions per call in the core, by stage, against benches/baseline.json (needs valgrind)
	@.ci/instructions

bench: ## CPU, memory, delays and limits of sipstamp, Kamailio and a raw relay, by turns (.ci/bench --help)
	@.ci/bench

bench-tcp: ## the same over TCP
	@.ci/bench --tcp

bench-journal: ## what the journal costs a call, and how long restoring takes (needs valgrind)
	@.ci/instructions --journal
	@RESTORE=1 $(CARGO) bench --locked --quiet --bench instructions

fuzz: ## each fuzzing target for a minute (needs g++): fuzz/README.md
	@.ci/fuzz 60

audit: ## dependencies against deny.toml: advisories, licences, sources, duplicate versions; installs cargo-deny
	@.ci/audit

ci: ## everything that continuous integration runs
	@bash .ci/run

clean: ## remove what was built
	$(CARGO) clean
