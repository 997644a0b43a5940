# pg_outbox. `make help` lists the targets.
#
# PG=16 chooses PostgreSQL 16 instead of 18; scripts/setup downloads both. PG_CONFIG=/path/to/pg_config chooses an
# installed one.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build install demo up down psql test test-core test-regress test-isolation test-e2e test-docs test-clients test-relay check fmt bench package chaos fuzz clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## download PostgreSQL 18 and 16 and libclang into .cache (once)
	@scripts/setup

install: setup ## build the extension and install it into the chosen PostgreSQL
	@scripts/install

demo: install ## watch committed messages arrive at an HTTP receiver (KEEP=1: keep the server, with its dashboard)
	@. scripts/env && { [ -z "$(KEEP)" ] || cargo build --quiet --release -p pg-outbox-cli; } && KEEP=$(KEEP) cargo run --quiet --release -p outbox-harness --bin demo

up: install ## start a development server; prints its DSN
	@. scripts/env && cargo run --quiet --release -p outbox-harness --bin dev -- up

down: setup ## stop the development server and remove its data
	@. scripts/env && cargo run --quiet --release -p outbox-harness --bin dev -- down

psql: ## open a session on the development server
	@. scripts/env && "$$(dirname $$PG_CONFIG)/psql" "$$(cat .dsn)"

test: install ## run all tests
	@scripts/test

test-core: setup ## run unit and property tests, without a server
	@scripts/test core

test-regress: install ## run the SQL regression tests
	@scripts/test regress

test-isolation: install ## test the sequencer in all interleavings, and every pair of operations on a delivery
	@scripts/test isolation

test-e2e: install ## run the tests against a real server and real receivers, crashes included
	@scripts/test e2e

test-docs: install ## run every example of README and docs
	@scripts/test docs

test-relay: install ## test the relay against real brokers
	@scripts/test relay

test-clients: install ## test the Rust, Python and Node clients and the command line
	@scripts/test clients

check: setup ## check formatting, lints, documentation and the form of the SQL
	@scripts/check

fmt: setup ## format the code
	@cargo fmt --all

bench: install ## run benchmarks with their comparisons (BENCH=name for one; BENCH=core: the core crate; BENCH=clients: the clients)
	@scripts/bench

package: setup ## build crates, wheel and npm package, and try each in a clean folder; uploads nothing
	@scripts/package

chaos: install ## run the chaos test for SECONDS (60) with SEED, and compare the results with the ledger
	@. scripts/env && cargo run --quiet --release -p outbox-chaos

fuzz: setup ## test all parsers of untrusted text with generated input (CASES=n, default 200000)
	@. scripts/env && PROPTEST_CASES=$${CASES:-200000} cargo test --release -q -p pg-outbox-core --test fuzz

clean: ## remove build results, keep downloads
	@cargo clean
	@rm -rf .cache/run .cache/dev .dsn
