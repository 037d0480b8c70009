# Two commands: `make repro` runs the study, `make test` checks the code. Each sets itself up; a second call starts at once.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready

repro: $(READY)
	PATH="$(BIN):$$PATH" dvc repro

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

ui: $(READY)
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --workers 1

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[dev]"
	touch $(READY)

.PHONY: repro test ui
