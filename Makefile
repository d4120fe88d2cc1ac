# Two commands on a bare Debian machine: `make run` and `make test`. `make help` lists the others.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
.DEFAULT_GOAL := help

BIN := .venv/bin
# Of `make run`, for instance ARGS="--store /var/lib/shmq".
ARGS ?=
# Of the test targets, for instance PYTEST_ARGS="-k ring -x".
PYTEST_ARGS ?=

.PHONY: help run setup test check crash powercut compat bench bench-peers docs ci clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

run: setup ## Run a stand-alone broker in the foreground; installs what is missing
	@exec $(BIN)/shmq standalone $(ARGS)

setup: ## Make .venv/bin/shmq
	@tools/setup.sh run

test: ## Run all tests; installs what they need (JDK, Maven and Go too)
	@tools/setup.sh test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: ## Format, lint, types, import contracts, stale generated docs
	@tools/setup.sh check
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python docs/make.py --check

# Of `make test` each takes a sample: states after a power cut, faults of the disk, bits, cuts.
crash: export SHMQ_CRASH_STATES ?= 100000
crash: export SHMQ_FAULTS_EVERY ?= 1
crash: export SHMQ_DAMAGE_COUNT ?= 10000
crash: export SHMQ_DAMAGE_EVERY ?= 1
crash: ## Tests that kill processes, cut the power and damage stores: an hour
	@tools/setup.sh check
	@$(BIN)/python -m pytest -m crash $(PYTEST_ARGS)

# How many: SHMQ_POWERCUTS. The tests fail where the kernel or the rights do not allow it.
powercut: ## Cut the power under a real file system, as root: three minutes
	@tools/setup.sh powercut
	@$(BIN)/python -m pytest -m powercut $(PYTEST_ARGS)

compat: ## Tests with Apache's clients and brokers
	@tools/setup.sh test
	@$(BIN)/python -m pytest -m compat $(PYTEST_ARGS)

bench: ## Measure shmq and Apache's broker side by side; see bench/README.md
	@tools/setup.sh test
	@$(BIN)/python -m bench.host.remoting $(or $(ARGS),all)

bench-peers: ## Measure shmq beside what else one host could run; see bench/peers/README.md
	@tools/setup.sh check
	@bench/peers/setup.sh
	@$(BIN)/python -m bench.peers $(ARGS)

docs: ## Make the generated documents anew
	@tools/setup.sh check
	@$(BIN)/python docs/make.py

ci: ## What CI runs
	@.ci/run

clean: ## Remove what was built and installed here
	@rm -rf .venv .setup build dist *.egg-info .*_cache .benchmarks .hypothesis
	@rm -rf shmq/kernels/*.so shmq/kernels/*.c
	@rm -rf tests/compat/.stamps tests/compat/java/lib tests/compat/java/classes tests/compat/go/driver
	@rm -rf bench/peers/.installed
	@find . -name __pycache__ -prune -exec rm -rf {} +
