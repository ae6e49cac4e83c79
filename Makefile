# Two commands matter: `make demo` (the main job on the real default) and `make test`.
# Both do their own set-up, in one virtual environment.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# dg asks for the active environment; make runs without activating one.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PEDIGREE_DOWNLOADS ?= $(CURDIR)/.pedigree/downloads
export DAGSTER_HOME := $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY := yes
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1

.PHONY: install modelaudit demo demo-attacks test test-slow lint format ui mlflow clean
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv || { echo "Install Python's venv module first: apt install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[pipeline,cluster,redis,dev]'
	$(BIN)/python -m pip check
	touch $@

# The other scanner that a policy may ask (`second_opinions`); nothing else needs it.
modelaudit: install
	$(BIN)/python -m venv .pedigree/modelaudit
	.pedigree/modelaudit/bin/python -m pip install --quiet --constraint constraints-modelaudit.txt modelaudit

demo: install
	$(BIN)/pedigree run --profile demo

# Four attacks that pass stock tools in silence, with their own output beside ours.
demo-attacks: install
	$(BIN)/python -m demos.attacks

test: install
	$(BIN)/python -m pytest -n 2

# In the order of the files: the longest begin early, and no worker is left with one at the end.
test-slow: install
	$(BIN)/python -m pytest -m slow -n 2 --dist loadgroup -p no:randomly

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/dg check defs

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: install
	$(BIN)/dg dev

mlflow: install
	$(BIN)/mlflow server --backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

clean:
	rm -rf .venv
