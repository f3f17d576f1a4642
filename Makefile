# Redoma's commands. Each installs what it needs first; a second run finds it there.

.DEFAULT_GOAL := help
.PHONY: help up down test test-cluster check gen bench soak lock

ARGS ?=

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## Install, start both sites on this machine, print the URL, two tenants' keys and a curl line
	@scripts/install.sh run
	@.venv/bin/redoma up

down: ## Stop everything; data and keys are kept
	@if [ -x .venv/bin/redoma ]; then .venv/bin/redoma down; else echo "Nothing is installed, so nothing runs."; fi

test: ## Run every test (ARGS="-k name" for some)
	@scripts/install.sh dev
	@.venv/bin/python -m pytest tests $(ARGS)

test-cluster: ## Test the network on a real kube-apiserver, built from released Go modules (minutes, the first time)
	@scripts/install.sh dev
	@binaries=$$(.venv/bin/python tests/cluster/binaries.py) || exit 1; [ -z "$$binaries" ] || \
		REDOMA_CLUSTER_BINARIES="$$binaries" .venv/bin/python -m pytest tests/cluster $(ARGS)

check: ## Lint, types, borders between services, protos, generated code
	@scripts/install.sh gen
	@scripts/check.sh

gen: ## Generate gen/python from proto/
	@scripts/install.sh gen
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python scripts/gen.py

bench: ## Measure speed, fairness and memory, an hour (ARGS="flood turns" for some, ARGS=--help for more)
	@scripts/install.sh dev
	@.venv/bin/python -m tests.bench $(ARGS)

soak: ## Keep a site under mixed load for 30 minutes, then look for leaks (ARGS="--minutes 5")
	@scripts/install.sh dev
	@.venv/bin/python -m tests.bench.soak $(ARGS)

lock: ## Renew the versions and hashes in requirements/
	@scripts/lock.sh
