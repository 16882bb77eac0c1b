# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs and says what it does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv lint format unit sim contract net e2e test demo lab bench fuzz docs matrix image rig rig-tools rig-build rig-up rig-down lock clean

PY := .venv/bin/python
READY := .venv/.ready
RUN := $(PY) -m tests.run
RIG := $(PY) -m tests.rig
ARGS ?=

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / {printf "  make %-30s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## the development environment in .venv, from the lock file with hashes

$(READY): requirements/dev.lock pyproject.toml
	@bash tests/venv.sh

lint: $(READY) ## ruff, mypy --strict, import contracts
	@bad=0; for check in "ruff check" "ruff format --check" mypy lint-imports; do \
	  echo "=== $$check"; .venv/bin/$$check || bad=1; done; \
	  echo "=== no file above 400 lines"; \
	  ! git ls-files '*.py' | xargs wc -l | awk '$$1 > 400 && $$2 != "total"' | grep . || bad=1; exit $$bad

format: $(READY) ## ruff format, and what ruff can mend
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

unit sim contract net e2e: $(READY) ## one tier (ARGS="-k word" goes to pytest)
	$(RUN) $@ $(ARGS)

test: $(READY) ## every tier; the last line counts
	$(RUN) $(ARGS)

demo: $(READY) ## the main job on a real three-node Kubernetes: a node dies, connections live on (ARGS=--keep)
	$(PY) -m tests.demo $(ARGS)

lab: $(READY) ## the classic lab, without Kubernetes: dr1, dr2, web1, web2, a client
	$(RIG) place -- $(PY) -m tests.lab $(ARGS)

docs: $(READY) ## the pages of docs/ that are made from the tests
	$(PY) -m tests.net.interop
	$(PY) -m tests.net.matrix_page
	$(PY) -m tests.clauses table

matrix: $(READY) ## what the kernel does with every scheduler, recorded anew, and the page of it (two minutes)
	$(RIG) place -- $(PY) -m pytest tests/net/test_matrix_*net.py -q -k "not recorded"
	$(PY) -m tests.net.matrix_results
	$(PY) -m tests.net.matrix_page

clauses: $(READY) ## break a copy of the code at every clause of RFC 9568: a test must turn red (ARGS=C26)
	$(PY) -m tests.clauses break --net $(ARGS)

fuzz: $(READY) ## five million damaged adverts for the decoder (two minutes), every property with twenty times its examples (five)
	$(PY) -m tests.fuzz.vrrp $(ARGS)
	$(PY) -m pytest -p tests.fuzz.more --times 20 --no-cov -q tests/sim tests/unit

bench: $(READY) ## the election beside keepalived, figures to build/bench.json; 18 min, 6 min with ARGS=--quick
	$(PY) -m tests.bench $(ARGS)

image: $(READY) ## the images, by Docker or buildah
	$(RIG) image

rig-tools: $(READY) ## the Debian packages that the rig and the tests use
	$(RIG) tools

rig rig-build: $(READY) ## everything that the rig caches: kernel, Kubernetes, images
	$(RIG) build

rig-up: $(READY) ## a real Kubernetes to play with; `.venv/bin/python -m tests.rig help` says more
	$(RIG) up $(ARGS)

rig-down: $(READY) ## take it away
	$(RIG) down

lock: $(READY) ## the lock files anew, after a change of dependencies
	requirements/compile.sh

clean: ## what is built in this folder (the rig's cache stays)
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
