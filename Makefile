# Everything a developer or a user of this checkout does. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
HARNESS := PYTHONPATH=tests $(BIN)/python -m harness
TINY_MODEL := examples/tiny/model

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints/dev.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version}"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/dev.txt uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -c constraints/dev.txt -e '.[operator,trainer,tracking,dev]'
	touch $@

.PHONY: install
install: $(INSTALLED) ## Install the kit and its tools into .venv

$(TINY_MODEL)/config.json: $(INSTALLED) examples/tiny/make_model.py examples/huanhuan.json
	$(BIN)/python examples/tiny/make_model.py $(TINY_MODEL)

.PHONY: run
run: $(TINY_MODEL)/config.json ## The main job on this machine: examples/quickstart.yaml to a trained adapter
	$(BIN)/qft run examples/quickstart.yaml

.PHONY: test
test: $(INSTALLED) ## Every tier that this machine can run
	$(BIN)/python tests/run_tiers.py

.PHONY: test-unit test-multiproc test-local test-chart test-controlplane test-node
test-unit test-multiproc test-local test-chart test-controlplane test-node: test-%: $(INSTALLED)
	$(BIN)/python tests/run_tiers.py $*

.PHONY: check
check: $(INSTALLED) ## ruff, mypy, import rules, CRD and chart drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m finetune_operator.crd --check

.PHONY: mutations
mutations: $(INSTALLED) ## Take guards out one at a time and see their tests fail; WORDS="..." picks some
	PYTHONPATH=tests $(BIN)/python -m mutations $(WORDS)

.PHONY: format
format: $(INSTALLED) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: crd
crd: $(INSTALLED) ## Generate crds/ and the chart's copy from the resource models
	$(BIN)/python -m finetune_operator.crd

.PHONY: golden
golden: $(INSTALLED) ## Rewrite the golden manifests; review the diff
	$(BIN)/python -m pytest -q tests/unit/manifests --update-golden

.PHONY: cluster
cluster: $(TINY_MODEL)/config.json ## Start a real Kubernetes on this machine to play with, the operator installed
	$(HARNESS) up --with-operator

.PHONY: cluster-down
cluster-down: $(INSTALLED) ## End that Kubernetes, and leave nothing of it
	$(HARNESS) down

.PHONY: clean
clean: ## Remove what was built here; the cache under ~/.cache/qwen3-finetune stays
	rm -rf $(VENV) $(TINY_MODEL) runs dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
