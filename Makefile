# `make demo` and `make test` work from a bare clone: each makes the environment first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-ci test-all coverage versions check lint types bench figures site release-check clean

demo: $(READY)  ## find the rare kinds among embedded digits; ends with a page
	$(BIN)/sdclr demo --run runs/demo

AGAIN := The failed tests run a second time. A test that passes now is unstable: report it or fix it.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: $(READY)  ## the fast suite, a process for each core
	$(PYTEST) -m "not slow"

test-ci: $(READY)  ## nearly the whole suite: learning, several processes and the examples too
	$(PYTEST) -m "not long" --durations 40 || { echo "$(AGAIN)"; $(PYTEST) -m "not long" --last-failed --last-failed-no-failures none; }

test-all: $(READY)  ## the whole suite: every file on a full disk, thousands of hostile files, frameworks that learn slowly
	$(PYTEST)

MEASURED := method mining encoders evaluation training
coverage: $(READY)  ## branch coverage of the core packages by their own tests; below 95 % is an error
	$(PYTEST) -m "not long" $(MEASURED:%=tests/%) tests/cli/test_info.py $(MEASURED:%=--cov=sdclr.%) --cov-report=term:skip-covered \
		--cov-fail-under=95

check: lint types test-ci  ## everything that a change must pass

figures: $(READY)  ## draw the figures of docs/results again from the data beside them
	$(BIN)/python benchmarks/figures.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench: $(READY)  ## speed and memory against the usual libraries, into runs/bench/; ARGS="--quick --data DIR" and more
	$(BIN)/python benchmarks/speed/speed.py --out runs/bench/speed.md $(ARGS)

site: $(READY)  ## the documentation as a site, into site/; warnings and broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

versions:  ## the fast tests with Python 3.11 to 3.13, and with the lowest versions of the dependencies; needs uv
	uvx --from 'nox[uv]' nox

release-check: $(READY)  ## build wheel and sdist, and run the wheel in an empty environment outside the repository
	PYTHON=$(BIN)/python .ci/release-check

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
