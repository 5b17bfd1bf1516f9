PYTHON ?= python3
BIN := .venv/bin
# A process for each core, each with one thread of OpenMP: processes with several wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check format clean

demo: .venv/.demo  ## the whole pipeline on synthetic radiographs, in a few minutes
	$(BIN)/medge run recipes/quickstart.yaml

test: .venv/.dev  ## every test that this machine can run
	$(PYTEST)

check: .venv/.dev  ## format, lint, types, import contract, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv runs

.venv/.python:
	$(PYTHON) -m venv .venv
	touch $@

.venv/.demo: .venv/.python pyproject.toml
	@echo "installing medge and what it needs into .venv (about a minute with a fast network)"
	$(BIN)/python -m pip install --quiet --editable '.[weights]'
	touch $@

.venv/.dev: .venv/.python pyproject.toml
	@echo "installing medge and what its tests need into .venv (about a minute with a fast network)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/.demo
