# pg_outbox. `make help` lists what there is.
#
# PG=16 chooses the other PostgreSQL that is fetched (default 18); PG_CONFIG=/path/to/pg_config an installed one.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build install demo up down psql test test-core test-regress test-isolation test-e2e test-docs test-clients check fmt bench package chaos fuzz clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## fetch PostgreSQL 18 and 16 and libclang into .cache (once)
	@scripts/setup

install: setup ## build the extension and install it into the chosen PostgreSQL
	@scripts/install

demo: install ## watch committed messages arrive at an HTTP receiver
	@. scripts/env && cargo run --quiet --release -p outbox-harness --bin demo

up: install ## start a development server; prints its DSN
	@. scripts/env && cargo run --quiet --release -p outbox-harness --bin dev -- up

down: setup ## stop the development server and remove its data
	@. scripts/env && cargo run --quiet --release -p outbox-harness --bin dev -- down

psql: ## a session on the development server
	@. scripts/env && "$$(dirname $$PG_CONFIG)/psql" "$$(cat .dsn)"

test: install ## run all tests
	@scripts/test

test-core: setup ## unit and property tests, without a server
	@scripts/test core

test-regress: install ## SQL regression
	@scripts/test regress

test-isolation: install ## the sequencer under interleavings, every pair of operations on a delivery
	@scripts/test isolation

test-e2e: install ## against a real server and receivers, crashes included
	@scripts/test e2e

test-docs: install ## every example of README and docs
	@scripts/test docs

test-clients: install ## Rust, Python and Node clients, the command line
	@scripts/test clients

check: setup ## formatting, lints, documentation
	@scripts/check

fmt: setup ## format the code
	@cargo fmt --all

bench: install ## measure, side by side with what it is compared with (BENCH=name for one; BENCH=core: the core crate, BENCH=clients: the clients)
	@scripts/bench

package: setup ## make crates, wheel and npm package, and try each in a clean place; uploads nothing
	@scripts/package

chaos: install ## kill, fill, cut and pause for SECONDS (60) with SEED, and compare with the ledger
	@. scripts/env && cargo run --quiet --release -p outbox-chaos

fuzz: setup ## generated input against everything that reads text (CASES=n, default 200000)
	@. scripts/env && PROPTEST_CASES=$${CASES:-200000} cargo test --release -q -p pg-outbox-core --test fuzz

clean: ## remove what was built, keep what was fetched
	@cargo clean
	@rm -rf .cache/run .cache/dev .dsn
