# Everything needs only make and Python 3.11 or newer; the first target that runs makes .venv from the lock.

PYTHON := $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test quick lint docs lock clean experiment
.DEFAULT_GOAL := test

demo: $(READY)  ## a simulated night, restored; prints where the pictures are
	rm -rf demo
	$(BIN)/stackd demo --out demo

test: lint  ## everything that CI asks
	$(BIN)/python -m pytest

quick: $(READY)  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .

# The long proofs behind the promises, e.g. make kills ARGS="--count 100"; last figures in docs/reliability.md.
.PHONY: calls kills signals flood soak ready assembly hostile fuzz full_disk mounted swaps
calls kills signals flood soak ready assembly hostile fuzz full_disk mounted swaps: $(READY)
	$(BIN)/python -m tests.campaigns.$@ $(ARGS)

experiment: $(READY)  ## the experiment of 2019, old network against new, in half an hour: make experiment PICTURES=folder
	@test -n "$(PICTURES)" || { echo "name a folder of clean pictures: make experiment PICTURES=..."; exit 2; }
	$(BIN)/python -m benchmarks.experiment --pictures "$(PICTURES)" --out experiment

docs: $(READY)  ## rewrite config.toml and README's table from stackd/settings.py
	$(BIN)/python docs/settings_pages.py

lock: $(READY)  ## newest versions that pyproject.toml allows, with their hashes
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet -o requirements.lock

clean:
	rm -rf .venv build dist demo *.egg-info .pytest_cache .ruff_cache .hypothesis

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "stackd needs Python 3.11 or newer, as python3.11 or python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
