# Everything a person or CI needs. No target needs root; all of it lands in .venv and the user's cache.
HOST     ?= 127.0.0.1
PORT     ?= 8080
REGISTRY ?= config/registry.yaml
VENV     ?= .venv
ARGS     ?=

BIN  := $(VENV)/bin
DEMO := config/registry.yaml

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help serve test bench soak peer lint types demo install install-dev clean

help:
	@echo "make serve   install what is missing, fetch the demo models, serve on http://$(HOST):$(PORT)"
	@echo "             PORT=$(PORT) HOST=$(HOST) REGISTRY=$(REGISTRY) ARGS='more flags of router serve'"
	@echo "make test    ruff, mypy, import contracts and every test; ARGS='-k swap' for some of them"
	@echo "make bench   tokens per second and swap times beside llama-server; bytes foretold and measured; a trace"
	@echo "make soak    2,000 swaps among six small models under traffic (20 minutes): memory, files and times flat;"
	@echo "             and before it 20,000 random lives of the scheduler (some 10 minutes)"
	@echo "             ARGS=--hostile: instead, 10 minutes of kills, edits and a log that is hardly read"
	@echo "make peer    build that llama-server (once, minutes)"
	@echo "make lint    ruff and the import contracts        make types   mypy --strict"
	@echo "make demo    only fetch the demo models           make clean   remove .venv and caches of tools"
	@echo "PYTHON=...   the Python that makes .venv (3.11 or newer; found by itself)"
	@echo "ROUTER_CUDA=on|off   overrule what is found out about the GPU"

serve: install
	@if [ "$(REGISTRY)" = "$(DEMO)" ]; then $(BIN)/router demo; fi
	@exec $(BIN)/router serve --registry "$(REGISTRY)" --host "$(HOST)" --port "$(PORT)" $(ARGS)

test: install-dev demo lint types
	$(BIN)/pytest $(ARGS)

bench: install-dev demo peer
	@$(BIN)/python -m tests.bench.streams $(ARGS)
	@$(BIN)/python -m tests.bench.swap $(ARGS)
	@$(BIN)/python -m tests.bench.bytes
	@$(BIN)/python -m tests.bench.trace
	@$(BIN)/python -m tests.bench.relay
	@$(BIN)/python -m tests.bench.delays

soak: install-dev demo
ifeq (,$(filter --hostile,$(ARGS)))
	@ROUTER_LIVES=20000 $(BIN)/pytest -q --timeout 900 tests/residency/test_simulation.py
	@ROUTER_RELOADS=200 $(BIN)/pytest -q -k g16 tests/e2e/test_guarantees.py
endif
	@$(BIN)/python -m tests.bench.soak $(ARGS)

peer: install-dev
	@$(BIN)/python -m tests.bench.peer

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install-dev
	$(BIN)/mypy --strict router

demo: install
	@$(BIN)/router demo

install:
	@python=$$(PYTHON="$(PYTHON)" deploy/find-python) && "$$python" deploy/install.py $(VENV)

install-dev:
	@python=$$(PYTHON="$(PYTHON)" deploy/find-python) && "$$python" deploy/install.py --dev $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
