# Everything starts from a bare clone: each target makes the environment it needs, once, and can be run again.
# Another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
WHEEL_VENV := .venv-wheel
WHEEL_BIN := $(WHEEL_VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
PINS := pyproject.toml constraints.txt
# Errors of pip show, its progress and remarks do not.
PIP := -m pip --disable-pip-version-check -qq

CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint golden soak clean

help: ## say what the targets do
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(CORE) ## ask the built-in model about Python's standard library
	@$(BIN)/diffembed demo

test: $(TEST) ## the short round: core tests on the source tree
	@$(BIN)/python -m pytest -q -m 'not slow and not extra and not soak and not gpu and not network'

lint: $(DEV) ## format, style and types
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/pyright --pythonpath $(BIN)/python

check: lint ## the long round: lint, types, layers, docs, and every test on the built wheel
	@$(BIN)/python -m pytest -q tests/test_layers.py tests/test_docs.py
	@rm -rf dist $(WHEEL_VENV)
	@$(BIN)/python $(PIP) wheel --no-deps --wheel-dir dist .
	@echo "installing the wheel into a fresh environment"
	@$(call new_venv,$(WHEEL_VENV))
	@$(WHEEL_BIN)/python $(PIP) install -c constraints.txt "$$(ls $(CURDIR)/dist/*.whl)[all,test]"
	@$(WHEEL_BIN)/python -c 'import diffembed, sys; print("testing", diffembed.__file__); \
	  sys.exit("site-packages" not in diffembed.__file__ and "this is not the wheel")'
	@$(WHEEL_BIN)/python -m pytest -q -m 'not soak and not gpu and not network'

golden: $(TEST) ## write the committed loss curves anew; say why in the commit
	@DIFFEMBED_GOLDEN=1 $(BIN)/python -m pytest -q -k golden_curve tests/training

soak: $(DEV) ## the longest round: many kills, much text, properties on thousands of examples
	@HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -q -m 'not gpu and not network' --timeout 3600

clean: ## remove environments, build outputs and caches
	@rm -rf $(VENV) $(WHEEL_VENV) dist build .pytest_cache .ruff_cache .hypothesis .ci/*.log
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment with torch in it. torch comes first and by its exact pin: that takes the build which the
# machine offers, where a range would let another package pull the newest one with gigabytes of CUDA.
define new_venv
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is \
%d.%d\nhint: make PYTHON=python3.11 ..." % sys.version_info[:2])' \
&& $(PYTHON) -m venv $(1) \
&& $(1)/bin/python $(PIP) install $(TORCH)
endef

$(CORE): $(PINS)
	@echo "installing into $(VENV) (once; a minute or two)"
	@$(call new_venv,$(VENV))
	@$(BIN)/python $(PIP) install -c constraints.txt -e .
	@touch $@

$(TEST): $(CORE)
	@$(BIN)/python $(PIP) install -c constraints.txt -e '.[test]'
	@touch $@

$(DEV): $(TEST)
	@echo "installing all extras and the linters into $(VENV) (once)"
	@$(BIN)/python $(PIP) install -c constraints.txt -e '.[all,dev]'
	@touch $@
