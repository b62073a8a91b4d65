# What a developer does, each in one word. Everything is installed into .venv.

# The first that runs: a name on the path may be the shim of a version manager, which fails for what is not active.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint protos bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(VENV)/.installed ## two nodes on this machine, one service, the same calls over every transport
	$(BIN)/ipcd demo

# Two environments at a time, the longest first: two CPUs are enough for that, since many tests wait. What one prints is
# shown when it is over. Faults under load want the machine for themselves.
test: $(VENV)/.tox ## everything that is checked: the whole of tox
	$(BIN)/tox run -e ruff,mypy,layers,protos
	$(BIN)/tox run-parallel --parallel 2 --parallel-no-spinner -e py311-nodes,py311,py313,oldest,wheel,py312
	$(BIN)/tox run -e py311-faults

lint: $(VENV)/.tox ## only what needs no running program
	$(BIN)/tox run -e ruff,mypy,layers,protos

protos: $(VENV)/.tox ## generate the protobuf code anew
	$(BIN)/tox run -e protos -- --write

bench: $(VENV)/.bench ## measure ipcd beside other ways of calling, into docs/: ten minutes on an idle machine
	$(BIN)/python -m benchmarks --out docs $(BENCH)
	$(BIN)/python -m benchmarks.named --out docs

clean: ## what make and tox have made
	rm -rf $(VENV) .tox build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "ipcd needs Python 3.11 or later; make PYTHON=... names one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.bench: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

$(VENV)/.tox: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet 'tox>=4.60'
	touch $@
