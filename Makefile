# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 8002
PROCESSES ?= 2
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
GRPC_PORT ?= 8001
.DEFAULT_GOAL := help
.PHONY: help run test test-swarm coverage check lint format types contracts models docs proto lock bench soak clean

help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# A virtual environment with exactly what a lock says; made anew when the lock changes.
$(VENV)/python:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/local: locks/local.txt pyproject.toml | $(VENV)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement locks/local.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/dev: locks/dev.txt pyproject.toml | $(VENV)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement locks/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@ $(VENV)/local

run: $(VENV)/local ## Run the platform with the sample models on 127.0.0.1:8002, or PORT=… GRPC_PORT=…
	$(BIN)/mlbuffet up --port $(PORT) --grpc-port $(GRPC_PORT) --repository repository --samples models

test: $(VENV)/dev ## Run all tests, two files side by side, or PROCESSES=…, 0 for one after the other
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

test-swarm: $(VENV)/dev ## Run the tests on Docker engines and a Swarm of two nodes, made on this machine (root, Debian)
	$(BIN)/python -m pytest tests/training tests/swarm

check: lint types contracts test ## Lint, types, import contracts, tests

lint: $(VENV)/dev ## Look for mistakes and untidiness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/dev ## Format, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev ## Check the types
	$(BIN)/mypy

contracts: $(VENV)/dev ## Check who imports whom
	$(BIN)/lint-imports

coverage: $(VENV)/dev ## Run the unit tests with branch coverage
	$(BIN)/coverage run -m pytest tests/unit
	$(BIN)/coverage report

models: $(VENV)/dev ## Train the sample models again
	$(BIN)/python models/make.py

docs: $(VENV)/dev ## Write the generated parts of the documentation
	$(BIN)/python docs/generate.py

proto: $(VENV)/dev ## Write the protobuf modules anew from their .proto files
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. mlbuffet/oip/*.proto

bench: $(VENV)/dev ## Measure predictions beside the peers (needs wrk)
	$(BIN)/python -m benchmarks.predict

soak: $(VENV)/dev ## Run the long soak, then every test at its full size (hours)
	$(BIN)/python -m benchmarks.soak
	MLBUFFET_SOAK=1 $(BIN)/python -m pytest
	MLBUFFET_SOAK=1 $(BIN)/python -m pytest tests/training tests/swarm

lock: | $(VENV)/python ## Write the locks anew from pyproject.toml, and those of the clients in the tests
	$(BIN)/pip install --quiet uv
	$(COMPILE) --all-extras pyproject.toml --output-file locks/dev.txt
	for extra in inferrer modelhost trainer cli deploy local; do \
	  $(COMPILE) --constraint locks/dev.txt --extra $$extra pyproject.toml --output-file locks/$$extra.txt; \
	done
	for wanted in tests/clients/*/requirements.in; do \
	  $(COMPILE) --python-version 3.11 $$wanted --output-file $${wanted%.in}.txt; \
	done

clean: ## Remove what the targets made
	rm -rf $(VENV) repository repository.metrics .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
