# Small commands anyone can run; CI calls the same ones. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
PYTHON ?= python3
PROMTOOL ?= promtool
UNTIL ?=
STAMP := .venv/.installed
RATCHET := .venv/bin/ratchet
UV := $(shell command -v uv || echo .tools/uv/bin/uv)
BENCH_STAMP := .venv/.bench-installed
DOCS_STAMP := .venv/.docs-installed
FAB_STAMP := .fab/.installed
CLUSTER_STAMP := .cluster/.installed
BENCH_ARGS ?=
CALIBRATE_ARGS ?=
SOURCES := include tests dags plugins bench documentation
BENCHES := events judging dag_parsing registering warm_worker

.PHONY: help setup lock scan release schemas deploy-files deploy-check docs docs-serve docs-figures up down status demo bench-setup bench bench-full bench-intake lint check test test-long test-fab cluster-test chaos chaos-proof bench-events bench-judging bench-snapshots bench-tuning alerts-test calibrate clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the locked environment into .venv (fetches uv when it is missing)

.tools/uv/bin/uv:
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): requirements-dev.txt pyproject.toml
	@[ -x "$(UV)" ] || $(MAKE) --no-print-directory .tools/uv/bin/uv
	[ -x .venv/bin/python ] || $(UV) venv --quiet --python '>=3.11,<3.14' .venv
	@echo "Installing the environment; compiling it once, or five servers would each do it at their first start"
	$(UV) pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements-dev.txt
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --editable .
	@touch $@

lock: ## Resolve the lock files again (no index address in them)
	@[ -x "$(UV)" ] || $(MAKE) --no-print-directory .tools/uv/bin/uv
	$(UV) pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header -o requirements.txt
	$(UV) pip compile --quiet pyproject.toml --group dev -c requirements.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements-dev.txt
	$(UV) pip compile --quiet --group bench -c requirements-dev.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements-bench.txt
	$(UV) pip compile --quiet --group fab -c requirements-dev.txt --universal --python-version 3.11 --generate-hashes \
	  $$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements-dev.txt) \
	  --no-emit-index-url --no-header -o requirements-fab.txt
	$(UV) pip compile --quiet pyproject.toml --extra cluster -c requirements.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements-cluster.txt
	$(UV) pip compile --quiet --group sbom -c requirements.txt --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header -o requirements-sbom.txt
	$(UV) pip compile --quiet --group docs -c requirements-dev.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements-docs.txt

schemas: setup ## Write the events' JSON Schemas, the AsyncAPI and the OpenAPI document and the reference into docs
	.venv/bin/python scripts/write-event-schemas
	.venv/bin/python -m documentation.reference

deploy-files: setup ## Write deploy/'s topics, rights, databases and secrets anew from the code
	.venv/bin/python scripts/write-deploy-files

deploy-check: setup ## Look at docker-compose.yaml and deploy/ with Compose, Terraform, Helm and the schemas of Kubernetes
	scripts/deploy-check

docs: $(DOCS_STAMP) ## Build the site of the documentation into .site/html; a link that leads nowhere is an error
	.venv/bin/python -m documentation.pages
	.venv/bin/zensical build --strict --clean

docs-serve: $(DOCS_STAMP) ## Show the site on http://localhost:8000; run `make docs` beside it after a change
	.venv/bin/python -m documentation.pages
	.venv/bin/zensical serve

docs-figures: setup ## Draw the figures of the pages anew from the recorded results
	.venv/bin/python -m documentation.figures

$(DOCS_STAMP): requirements-docs.txt $(STAMP)
	$(UV) pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements-docs.txt
	@touch $@

up: setup ## Start the local stack in the background and wait until it is ready
	$(RATCHET) up

down: ## Stop the local stack; its data stays
	@if [ -x $(RATCHET) ]; then $(RATCHET) down; else echo "Nothing is installed, so nothing runs."; fi

status: setup ## Tell what runs
	@$(RATCHET) status

demo: setup ## Live through the year 2013; UNTIL=2013-05 stops after that month
	$(RATCHET) demo $(if $(UNTIL),--until $(UNTIL))

bench-setup: $(BENCH_STAMP) ## Install what the benches are measured against, beside the environment

$(BENCH_STAMP): requirements-bench.txt $(STAMP)
	$(UV) pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements-bench.txt
	@touch $@

test-fab: $(FAB_STAMP) ## What roles per DAG of FAB's auth manager let people see and do; its packages go to .fab
	.venv/bin/pytest -q tests/dags/test_fab_roles.py

$(FAB_STAMP): requirements-fab.txt $(STAMP)
	$(UV) pip install --quiet --target .fab --python .venv/bin/python --no-deps --require-hashes -r requirements-fab.txt
	@touch $@

bench-intake: bench-setup ## The intake beside Airflow's Kafka provider; BENCH_ARGS=--quick for a small one
	.venv/bin/python bench/intake.py $(BENCH_ARGS)

scan: setup ## Known weaknesses of what is locked, and of IMAGE=name@sha256:…; ends with 2 where they cannot be looked up
	scripts/scan $(SCAN_ARGS)

release: setup ## Wheel, source archive and their signed sums in dist/; MINISIGN_KEY=secret key, IMAGE=name@sha256:…
	scripts/release

lint: setup ## ruff, mypy strict, import directions
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy
	MYPYPATH=. .venv/bin/mypy --explicit-package-bases --exclude peer_dags -p bench
	.venv/bin/lint-imports

check: lint ## Lint, and the tests that need no stack
	.venv/bin/pytest -q -n auto --dist loadfile -m "not stack"

test: check ## Everything: the integration tests bring up a stack of their own and stop it
	scripts/integration-tests

test-long: setup ## The integration tests that take minutes each
	RATCHET_TEST_MARK="stack and long" scripts/integration-tests

cluster-test: setup $(CLUSTER_STAMP) ## The year on Compose's cluster as processes, with kills, beside one machine (half an hour)
	scripts/cluster-test

$(CLUSTER_STAMP): requirements-cluster.txt $(STAMP)
	[ -x .cluster/bin/python ] || $(UV) venv --quiet --python .venv/bin/python .cluster
	$(UV) pip sync --quiet --compile-bytecode --python .cluster/bin/python --require-hashes requirements-cluster.txt
	$(UV) pip install --quiet --python .cluster/bin/python --no-deps --editable .
	@touch $@

chaos: setup ## Kill everything under load and close the books; KILLS, EVENTS, MODELS, SEED; SHORT=1 takes minutes
	KILLS=$(KILLS) EVENTS=$(EVENTS) MODELS=$(MODELS) SEED=$(SEED) SHORT=$(SHORT) scripts/chaos

chaos-proof: setup ## Show that the books of make chaos do not balance on builds without a guard
	scripts/chaos-proof

bench: setup ## The benches that take minutes, one after the other, and the table of docs/performance.md
	.venv/bin/ratchet data build
	for part in $(BENCHES); do .venv/bin/python -m bench.$$part || exit 1; done
	.venv/bin/python -m bench.summary

bench-full: bench-setup ## Every bench at full size (hours, a quiet machine); what is finished is kept; BENCH_ARGS="--only tuning"
	.venv/bin/ratchet data build
	.venv/bin/python -m bench.full $(BENCH_ARGS)

bench-events: setup ## Validate one event, side by side with peers; rows in bench/results/events.json
	.venv/bin/python -m bench.events

bench-judging: setup ## A verdict on 1,000,000 rows beyond one pass over them; rows in bench/results/judging.json
	.venv/bin/python -m bench.judging

bench-snapshots: bench-setup ## Point-in-time features beside Feast's stores and polars; rows in bench/results/snapshots.json
	.venv/bin/python -m bench.snapshots $(BENCH_ARGS)

bench-tuning: bench-setup ## Tuning by policy beside the naive Optuna loop and FLAML; rows in bench/results/tuning.json
	.venv/bin/python -m bench.tuning $(BENCH_ARGS)

alerts-test: ## Check and test the alert rules with Prometheus' own promtool; PROMTOOL=path
	$(PROMTOOL) check rules deploy/observability/alerts.yaml
	$(PROMTOOL) test rules deploy/observability/alerts.test.yaml

calibrate: setup ## What the gate promises, measured (minutes); the table also goes to .ratchet/calibration.json
	.venv/bin/python -m bench.calibration $(CALIBRATE_ARGS)

clean: down ## Stop the stack and remove its data; the environment stays
	rm -rf .ratchet
