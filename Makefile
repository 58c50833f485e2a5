# `make run` adapts a model, `make test` runs every test; both set up .venv first.
PYTHON ?= python3
RECIPE ?= recipes/sentiment_bert.yaml
ARGS ?=
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: run test check conformance notebooks docs format clean

run: .venv/installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		-m hfadapt.run $(RECIPE) $(ARGS)

test: .venv/installed
	$(PYTEST)

check: .venv/installed
	$(BIN)/ruff format --check hfadapt tests docs
	$(BIN)/ruff check hfadapt tests docs
	$(BIN)/mypy
	$(PYTEST)

# Every method on every family, which takes about an hour; `test` tries each on one that reads and one that sees.
conformance: .venv/installed
	HFADAPT_CONFORMANCE=all $(PYTEST) tests/conformance

# Executes every notebook whole and keeps its outputs, which takes some minutes; `test` runs them in a small setting.
notebooks: .venv/installed
	$(BIN)/python tests/executing.py

# The pages lie in docs/built; a warning is an error.
docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/built

format: .venv/installed
	$(BIN)/ruff format hfadapt tests docs
	$(BIN)/ruff check --fix hfadapt tests docs

clean:
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
