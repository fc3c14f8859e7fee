# `make demo` and `make test` work from a bare clone: each makes the environment first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-all check lint types bench clean

demo: $(READY)  ## find the rare kinds among embedded digits; ends with a page
	$(BIN)/sdclr demo --run runs/demo

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)  ## the fast suite, a process for each core
	$(PYTEST) -m "not slow"

test-all: $(READY)  ## the whole suite: learning, several processes and the examples too
	$(PYTEST)

check: lint types test-all  ## everything a change must pass

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)  ## speed and memory against the usual libraries, into runs/bench/; ARGS="--quick --data DIR" and more
	$(BIN)/python benchmarks/speed.py --out runs/bench/speed.md $(ARGS)

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
