# demo: the main job on a bare Debian 12 machine (root). test: everything. check: style and types.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
BIN := .venv/bin

.PHONY: demo test check
check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: .venv/ready
	./tests/run

demo: .venv/ready
	./bench/demo.sh

.venv/ready: pyproject.toml .ci/setup
	PYTHON=$(PYTHON) ./.ci/setup
