# `make` lists the targets. The first call of any of them sets everything up in .venv (about 3 minutes).

.DEFAULT_GOAL := help
SHELL := /bin/bash

# Options for the command behind a target, for example: make quickstart ARGS="--out runs/first"
ARGS ?=
# The Python that .venv is made from, for example: make PYTHON=/opt/python3.12/bin/python3 test
PYTHON ?=

BIN := .venv/bin
export PYTHON
# What another project left in these (ROS does) must not reach the tests.
unexport PYTHONPATH PYTHONHOME

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  Options of the command behind a target go into ARGS: make test ARGS="-k wilson"'

.PHONY: setup
setup: ## Make .venv with everything in it (every target below does this by itself)
	@scripts/setup.sh

.PHONY: quickstart
quickstart: setup ## Demonstrations, RSP, policies, evaluation and report.html: ten to fourteen minutes on 2 cores
	@$(BIN)/rsp-robot quickstart $(ARGS)

.PHONY: doctor
doctor: setup ## Say what this machine has, what is missing, and how fast it renders
	@$(BIN)/rsp-robot doctor $(ARGS)

.PHONY: test
test: setup ## Run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

.PHONY: test-slow
test-slow: setup ## Run the tests that take long (they need the package index)
	@$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: lint
lint: setup ## Check style (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: format
format: setup ## Mend style where ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: types
types: setup ## Check types (mypy)
	@scripts/types.sh

.PHONY: wheel
wheel: setup ## Build dist/*.whl and dist/*.tar.gz
	@$(BIN)/python -m build --outdir dist

.PHONY: clean
clean: ## Remove what builds and checks leave behind; runs and .venv stay
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: clean-all
clean-all: clean ## Remove .venv as well
	@rm -rf .venv
