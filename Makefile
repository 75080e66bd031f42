# demo: the main job on a bare Debian 12 machine (root). test: everything. check: style and types.
BIN := .venv/bin

.PHONY: demo test check setup
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: setup
	./tests/run

demo: setup
	./bench/demo.sh

setup:
	@./.ci/setup
