# Every target installs what it needs: `make demo` and `make test` work on a fresh clone.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
EXTRAS := server,engine,train,photos,cpu,http,otel,docs,dev
# The first of these that is 3.11 or newer creates the environment; `make PYTHON=...` overrides it.
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; print("$(name)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
# onnxruntime and onnxruntime-gpu install the same module: an environment has one of them.
RUNTIME := $(if $(shell nvidia-smi -L 2>/dev/null),onnxruntime-gpu,onnxruntime)
OTHER_RUNTIME := $(if $(filter onnxruntime,$(RUNTIME)),onnxruntime-gpu,onnxruntime)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
# Bytecode is kept, whatever the environment says: many containers say not to, and then each of the
# tests' processes compiles torch's modules again.
unexport PYTHONDONTWRITEBYTECODE
# The stamp's name changes with the requirements, so a changed lock file installs again.
STAMP := $(VENV)/stamp-$(RUNTIME)-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)

.PHONY: help setup demo test check site proto lock clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

setup: $(STAMP)  ## create .venv with everything in requirements.lock

$(STAMP):
	@test -n "$(PYTHON)" || { echo "kshot needs Python 3.11 or newer: none is on the path" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/stamp-*
	$(BIN)/python -m pip uninstall --quiet --yes $(OTHER_RUNTIME) 2>/dev/null
	sed 's/^onnxruntime==/$(RUNTIME)==/; /^torch==/d' requirements.lock > $(VENV)/requirements.txt
	grep '^torch==' requirements.lock > $(VENV)/torch.txt
	# Python compiles a module to bytecode when it is first imported; few of torch's ever are.
	$(INSTALL) --no-compile --require-hashes -r $(VENV)/requirements.txt
	$(INSTALL) --no-compile -r $(VENV)/torch.txt
	$(INSTALL) -e .
	$(BIN)/kshot bundle build photos > /dev/null
	touch $@

demo: setup  ## a server, digits and photographs, beside simple classifiers; PICTURES=FOLDER for your own
	$(BIN)/python -m examples.demo $(if $(PICTURES),--pictures "$(PICTURES)")

test: setup  ## run the tests, a process per core; ARGUMENTS goes to pytest
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGUMENTS)

check: setup site  ## lint, format, types, wire, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(wildcard examples/*.py examples/*/*.py benchmarks/*.py)
	$(BIN)/buf lint

site: setup  ## build the documentation into build/site; warnings are errors
	$(BIN)/sphinx-build -q -E -W -j auto --keep-going -c docs/site . build/site

proto: setup  ## regenerate the modules from the .proto files
	proto/generate.sh

lock:  ## write requirements.lock with the newest versions that pyproject.toml allows
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	# onnxruntime-gpu may come out later than onnxruntime: take the newest version that both have.
	for name in onnxruntime onnxruntime-gpu; do \
		$(VENV)-lock/bin/python -m pip index versions --disable-pip-version-check $$name \
			| sed -n 's/^Available versions: //p' | tr -s ', ' '\n'; \
	done | sort -V | uniq -d | tail -n 1 | sed 's/^/onnxruntime==/' > $(VENV)-lock/runtime.txt
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check \
		-r $(VENV)-lock/runtime.txt 'torch==2.13.0' '.[$(EXTRAS)]'
	$(VENV)-lock/bin/python -m pip freeze --all --exclude kshot --exclude pip \
		| grep -viE '^(nvidia-|cuda-|triton==|opencv-python==)' > $(VENV)-lock/frozen.txt
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(CURDIR)/$(VENV)-lock/bin:$$PATH" $(VENV)-lock/bin/python .ci/lock.py < $(VENV)-lock/frozen.txt
	rm -rf $(VENV)-lock

clean:  ## remove the environment and the tools' caches
	rm -rf $(VENV) $(VENV)-lock build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
