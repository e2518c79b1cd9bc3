# make demo | test | unit | check | docs | bench | clean.  Needs Python 3.11+ with venv, and make. Safe to run again.

PYTHON ?= python3
BIN := .venv/bin
OBSERVATORY := runs/observatory
DEMO := runs/egs-demo
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test unit check docs bench clean

demo: .venv/.installed-simulate $(OBSERVATORY)/exposures.json
	$(BIN)/survey serve $(OBSERVATORY) -- $(BIN)/survey run configs/demo.yaml
	$(BIN)/python docs/picture.py $(DEMO)

# exposures.json is the last thing that simulate writes: a simulation that was cut short is made again.
$(OBSERVATORY)/exposures.json: | .venv/.installed-simulate
	$(BIN)/survey simulate $(OBSERVATORY) --scene configs/scenes/demo.yaml

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m ""

unit: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings are errors; nothing is fetched. The first page is docs/_build/html/index.html.
docs: .venv/.installed-docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: .venv/.installed-test
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf .venv build dist docs/_build docs/reference/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "runs/ holds data and stays; remove it by hand when it is no longer wanted."

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is `$(PYTHON) --version 2>&1`; Python 3.11 or later is needed. Name one: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv

# One stamp per set of extras; the install is repeated only when the project or the pins change.
.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing jwst-survey[$*] into .venv (a few minutes, once)"
	$(PIP_INSTALL) --editable ".[$*]"
	@touch $@
