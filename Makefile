# make demo   sets everything up, builds, shows pgtenant at work; stays up until Ctrl-C
# make test   everything that must be green; what .ci/run calls
# make frameworks  applications of real frameworks, 1,000 requests each
# make suites the test suites of real drivers, direct and through
# make fuzz-wire  the differential fuzzer of the wire: two hours; SECONDS=600 SEED=1 FAMILY=rows for less; CONTEXT=sealed
# make fuzz-wire-versions  the same on PostgreSQL 14, 16, 17 and 18, plain and sealed; ten minutes each
# make isolation-versions  the attacks on the register on PostgreSQL 14, 16, 17 and 18
# make crowd  a million random transactions of 20 tenants over three servers; TRANSACTIONS=100000 SEED=1 for others
# make hand-overs  disturbs a hand-over at every byte of it
# make mutations  drops the rules of the relay's core one by one and shows that each loss is noticed
# make bench  the comparison with PostgreSQL directly and with PgBouncer

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: demo test bench suites fuzz-wire fuzz-wire-versions crowd hand-overs mutations setup setup-test lint unit lexer drivers frameworks isolation isolation-versions runbook demo-once docs

demo: setup
	cargo build --release --locked
	$(TARGET)/release/pgtenant demo

# In the order in which they fail fastest; one after the other, since each uses all cores by itself.
test: setup-test
	$(MAKE) lint
	$(MAKE) docs
	$(MAKE) unit
	$(MAKE) lexer
	$(MAKE) drivers
	$(MAKE) frameworks REQUESTS=200 CUT=--cut
	$(MAKE) isolation
	$(MAKE) runbook
	$(MAKE) demo-once
	@echo "all green"

bench: setup
	cargo build --release --locked
	benches/compare

setup:
	scripts/setup

setup-test:
	scripts/setup-test

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

docs:
	scripts/check-docs
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

# The wire fuzzer has five minutes of it, or as many sequences from one seed, so that it judges a change and not luck.
unit:
	PGTENANT_WIRE_FUZZ_SECONDS=$(or $(PGTENANT_WIRE_FUZZ_SECONDS),300) \
	PGTENANT_WIRE_FUZZ_SEQUENCES=$(or $(PGTENANT_WIRE_FUZZ_SEQUENCES),400) \
	PGTENANT_WIRE_FUZZ_SEED=$(or $(PGTENANT_WIRE_FUZZ_SEED),1) scripts/run-tests

# The parts below run the program that the tests were built for, so that only one profile is ever built.
lexer:
	cargo build --locked --example tokens
	TOKENS=$(TARGET)/debug/examples/tokens tests/lexer/run

drivers:
	cargo build --locked
	PGTENANT=$(TARGET)/debug/pgtenant tests/drivers/run

# Small applications of real frameworks, under load.
frameworks:
	cargo build --locked
	PGTENANT=$(TARGET)/debug/pgtenant tests/frameworks/run --requests $(or $(REQUESTS),1000) $(CUT)

# Each line of defence by itself and both together, against the corpus of attacks.
isolation:
	cargo build --locked
	PGTENANT=$(TARGET)/debug/pgtenant tests/isolation/run --pgtenant

# The attacks on the register and on proofs, on other versions than the installed one. There is no sealed context on 14.
isolation-versions:
	cargo build --locked
	set -e; for version in 14 16 17 18; do \
		echo "PostgreSQL $$version"; \
		columns="--column off-plain --column strict-plain"; \
		if [ $$version != 14 ]; then columns="--column open-register --column off-sealed --column strict-sealed"; fi; \
		PGTENANT=$(TARGET)/debug/pgtenant tests/isolation/run --pgtenant --postgres $$version $$columns \
		--column off-schema --column strict-schema --column strict-database --only 35-register --only 23-proofs --only 17-sequences; \
	done

# What docs/moving.md says, done while the tenants that move work.
runbook:
	cargo build --locked
	PGTENANT=$(TARGET)/debug/pgtenant tests/runbook/run

# The published test suites of drivers, direct and through; a quarter of an hour, and so no part of test.
suites:
	cargo build --locked
	PGTENANT=$(TARGET)/debug/pgtenant tests/suites/run

# Half of the time from a fixed seed, so that runs can be compared, half from a new one.
FUZZ_SECONDS := $(or $(SECONDS),7200)
FUZZ_WIRE := PGTENANT_WIRE_FUZZ_FAMILY=$(FAMILY) PGTENANT_WIRE_FUZZ_CONTEXT=$(CONTEXT) \
	PGTENANT_WIRE_FUZZ_SECONDS=$(shell expr $(FUZZ_SECONDS) / 2)
fuzz-wire:
	cargo test --locked --test it --no-run
	$(FUZZ_WIRE) PGTENANT_WIRE_FUZZ_SEED=$(or $(SEED),1) cargo test --locked --test it wire_fuzz -- --nocapture
	$(FUZZ_WIRE) cargo test --locked --test it wire_fuzz -- --nocapture

# Each version with each context, half of the time each.
fuzz-wire-versions:
	tests/scripts/fetch-postgres 14 16 17 18
	cargo test --locked --test it --no-run
	set -e; for version in 14 16 17 18; do for context in plain sealed; do \
		echo "PostgreSQL $$version, $$context"; \
		PGTENANT_WIRE_FUZZ_POSTGRES=$$(tests/scripts/fetch-postgres --bin $$version) PGTENANT_WIRE_FUZZ_CONTEXT=$$context \
		PGTENANT_WIRE_FUZZ_SECONDS=$$(expr $(or $(SECONDS),600) / 2) cargo test --locked --test it wire_fuzz -- --nocapture; \
	done; done

crowd:
	cargo build --release --locked
	PGTENANT_BINARY=$(abspath $(TARGET)/release/pgtenant) PGTENANT_CROWD=$(or $(TRANSACTIONS),1000000) \
		$(if $(SEED),PGTENANT_SEED=$(SEED)) cargo test --locked --test it crowd -- --nocapture

hand-overs:
	cargo build --release --locked
	PGTENANT_BINARY=$(abspath $(TARGET)/release/pgtenant) PGTENANT_HAND_OVER_STRIDE=1 \
		cargo test --locked --test it hand_over_faults -- --nocapture

mutations:
	scripts/mutate-wire --seconds $(or $(SECONDS),300) $(if $(ONLY),--only $(ONLY))

demo-once:
	cargo build --locked
	$(TARGET)/debug/pgtenant check --config config.example.toml
	$(TARGET)/debug/pgtenant demo --once
