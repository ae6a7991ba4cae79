# `make repro` and `make test` set everything up first; a fresh clone needs nothing else.
PYTHON ?= python3
BIN := .venv/bin
SYNCED := .venv/.synced
PORT ?= 5000
# Tests run in parallel with one thread each: oversubscribed cores are slower.
WORKERS ?= 2

# Every stage is a new process: without bytecode, imports alone would take minutes.
unexport PYTHONDONTWRITEBYTECODE
export GIT_PYTHON_REFRESH := quiet
export DVC_NO_ANALYTICS := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro test lint format ui server lock clean doctor screenshots dag report crossval evidence bench bench-full

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(SYNCED) ## create .venv with the pinned dependencies

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"histofuse needs Python 3.11 or newer, {sys.executable} is {v.major}.{v.minor}: run make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet "$$(grep -oE '^uv==[0-9.]+' requirements.lock)"

$(SYNCED): $(BIN)/uv requirements.lock pyproject.toml
	@echo "Installing the pinned packages into .venv (about 7 GB with the GPU libraries on Linux)"
	@$(BIN)/uv pip sync --compile-bytecode --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: $(SYNCED) ## run the whole pipeline and show what to open next
	@test -e .git || (echo "histofuse runs from a git checkout: clone it, or git init" >&2; exit 1)
	@dvc repro
	@histofuse next

dag: $(SYNCED) ## list the stages of the pipeline, and what each needs
	@dvc dag --dot | python pipelines/_list_stages.py

report: $(SYNCED) ## write reports/index.html, one page on the last run
	@histofuse report

# Until asked for, their stages are not in sight of DVC.
evidence/dvc.yaml: evidence/stages.yaml
	@cp $< $@
	@echo "evidence/dvc.yaml and its lock are new to git: commit both, or delete them later (docs/pipeline.md)"

crossval: $(SYNCED) evidence/dvc.yaml ## cross-validate the whole chain by case (about ten minutes on two cores)
	@dvc repro evidence/dvc.yaml:crossval

evidence: $(SYNCED) evidence/dvc.yaml ## cross-validation, and the paper's protocol compared with a split by case
	@dvc repro evidence/dvc.yaml

test: $(SYNCED) ## lint, then run all tests (HISTOFUSE_REAL_DATA=<folder> adds the ones on real data)
	@$(MAKE) --no-print-directory lint
	@OMP_NUM_THREADS=1 python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(SYNCED) ## ruff, types, import contracts
	@ruff check .
	@ruff format --check .
	@basedpyright --level error
	@lint-imports --no-cache

format: $(SYNCED) ## apply ruff's fixes and formatting
	@ruff check --fix .
	@ruff format .

ui: $(SYNCED) ## browse runs and the model registry on http://127.0.0.1:5000
	@histofuse ui --port $(PORT)

server: $(SYNCED) ## serve MLflow to a team, with users and passwords (docs/team.md)
	@histofuse server --port $(PORT)

doctor: $(SYNCED) ## check the installation
	@histofuse doctor

lock: $(BIN)/uv ## resolve requirements.lock again from pyproject.toml
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --quiet --custom-compile-command "make lock" -o requirements.lock

clean: ## remove .venv and caches; data, models and runs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .histofuse/pictures benchmarks/.cache build src/*.egg-info

screenshots: $(SYNCED) ## retake the README's pictures of the MLflow UI (needs Chromium)
	@python docs/screenshots.py

bench: $(SYNCED) ## measure speed against peers and write benchmarks/results.md (ten minutes)
	@python benchmarks/run.py --short

bench-full: $(SYNCED) ## the same at full size: 118 million laboratory rows, hours and 10 GB of disk
	@python benchmarks/run.py
