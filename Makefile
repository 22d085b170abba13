# The Python that .venv is made with: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv/bin
# More arguments for pytest: make test ARGS='-k follow -x'
ARGS ?=
# A file's tests stay together, with the node that they share; files in their order, the small last.
SPREAD := --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
# The images to make or push: make images FLAVOURS="cpu cpu-torch" IMAGE_ARGS=--local-base
FLAVOURS ?= cpu cpu-torch
IMAGE_ARGS ?=
# Random faults: make chaos JOBS=1000 SEED="1 2 3" CHAOS_ARGS="--nodes 3"
JOBS ?= 1000
SEED ?= 1
CHAOS_ARGS ?=

# The version that nodes and producers of this one are mixed with: make mixed OLD=v0.1.0
OLD ?= HEAD~1

.PHONY: help env demo test lint bench chaos mixed images node-image images-push

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

env: ## .venv with everything, from requirements.lock; the others do this first
	@$(PYTHON) scripts/bootstrap.py

demo: env ## Redis, a node and a real training, with a live progress bar
	@$(VENV)/cyxwiz demo

test: env ## all tests
	$(VENV)/python -m pytest -n auto $(SPREAD) $(ARGS)

lint: env ## style, types, and who may import whom
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/mypy --platform win32 -p tasks
	$(VENV)/lint-imports

bench: env ## what the project's own machinery costs
	$(VENV)/python -m benchmarks

chaos: env ## random faults against a cluster of this host; exit 1 if a job is lost or doubled
	$(VENV)/python -m tests.chaos --jobs $(JOBS) --seed $(SEED) $(CHAOS_ARGS)

mixed: env ## this version's nodes and producers beside those of the commit OLD
	@set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	git clone -q . "$$place/other"; git -C "$$place/other" checkout -q $$(git rev-parse $(OLD)); \
	$(MAKE) --no-print-directory -C "$$place/other" env; \
	OTHER_VERSION_PYTHON="$$place/other/.venv/bin/python" \
	$(VENV)/python -m pytest -n auto tests/e2e/test_two_versions.py $(ARGS)

images: env ## the executor images, for the Docker engine of this host
	$(VENV)/python images/build.py build $(IMAGE_ARGS) $(FLAVOURS)

node-image: env ## the image of compose/: nodes and Flower
	$(VENV)/python images/build.py node $(IMAGE_ARGS)

images-push: env ## push them: make images-push REGISTRY=registry.example:5000/team
	@test -n "$(REGISTRY)" || { echo "say where to: make images-push REGISTRY=HOST/PATH"; exit 2; }
	$(VENV)/python images/build.py push $(REGISTRY) $(FLAVOURS)
