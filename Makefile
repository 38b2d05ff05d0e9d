# Everything is kept in .venv and .venv-airflow-*; nothing else on the machine is touched.
# What it takes: Linux, make, and a Python from 3.11 to 3.14 with venv. PYTHON=... names one, else it is found.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh

PINS := .ci/pins
UV := uv==0.13.8
MATRIX := 2.11 3.2
# Each worker has servers of its own. Workers take neighbouring tests, so that what a file makes once is made once or
# twice; one that has none left takes half of another's, so that none is alone with a long file in the end.
# One more than there are processors, for tests wait now and then, but four at most.
WORKERS := --numprocesses=$(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4))) --dist=worksteal
export UV_LINK_MODE := copy
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A surrounding environment has no say in ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV UV_PYTHON UV_PROJECT_ENVIRONMENT

.PHONY: help demo test test-all exam readers bench bench-quick memory mutants lock-cost race rewrite soak fuzz lint reference words test-matrix format pins clean

help: ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' Makefile | while IFS='|' read -r target text; do \
	  printf '%-22s %s\n' "$$target" "$$text"; done

demo: .venv/installed ## Copy Korean tables between two real PostgreSQL servers by a real Airflow run
	.venv/bin/safecopy demo

test: .venv/installed ## Run the fast tests with the newest Airflow: each promise on real servers (six minutes on two cores; TESTS="tests/lock")
	.venv/bin/python -m pytest -q $(WORKERS) -m "not slow" --hypothesis-profile=quick $(TESTS)

test-all: .venv/installed ## Run every test with the newest Airflow: all cases, faults at each step, exams (about 20 minutes; TESTS="tests/lock")
	.venv/bin/python -m pytest -q $(WORKERS) $(TESTS)

exam: .venv/installed ## Copy all relations of PostgreSQL's own regression database in each way to publish (minutes; EXAM="--mode swap")
	.venv/bin/python -m tests.exam.exam $(EXAM)

readers: .venv/installed ## Read at each isolation level during a hundred publishes of each mode (minutes; READERS="--publishes 20")
	.venv/bin/python -m tests.readers --publishes 100 $(READERS)

bench: .venv-bench/installed .venv/installed ## Measure beside raw pipes and other tools: tables, plots, bars (up to two hours, on an idle machine; BENCH="--only ratios")
	.venv-bench/bin/python -m benchmarks.bench $(BENCH)

bench-quick: .venv/installed ## Fail when a chunked copy takes more than 1.3 times as long as a raw binary pipe (a minute)
	.venv/bin/python -m benchmarks.quick $(BENCH)

memory: .venv/installed ## Show that memory stays flat from a table of 20 MiB to one of 2 GiB (minutes, 10 GB of disk)
	.venv/bin/python -m benchmarks.memory

mutants: .venv/installed ## Put one fault after another into the lock's SQL; every one must be noticed (minutes; MUTANTS="words of a fault")
	.venv/bin/python -m benchmarks.mutants $(MUTANTS)

lock-cost: .venv/installed ## Measure what the lock costs, by message and by copy (minutes, on an idle machine)
	.venv/bin/python -m benchmarks.lock_cost

race: .venv/installed ## Race eight processes for the lock, stopped and killed at the worst moments (7 minutes; RACE="--seconds 60")
	.venv/bin/python -m tests.race.race $(RACE)

fuzz: .venv/installed ## Feed every parser what it was not made for, for longer than make test-all does (minutes; FUZZ="tests/fuzz/test_names.py")
	.venv/bin/python -m pytest -q --hypothesis-profile=deep -o timeout=1800 $(or $(FUZZ),tests/fuzz tests/airflow/test_fuzz.py)

soak: .venv/installed ## Break copies at any step, and let rivals fight for one table, by a seed (30 minutes; SOAK="--minutes 5 --seed 7")
	.venv/bin/python -m tests.soak.soak $(SOAK)

rewrite: .venv/installed ## Copy a source that is reloaded all the time, its sessions ended at any step, by a seed (minutes; REWRITE="--copies 50 --ablation")
	.venv/bin/python -m tests.rewrite.exam $(REWRITE)

reference: .venv/installed ## Write docs/reference/options.md from the declarations of the options
	.venv/bin/python -m tests.reference

words: .venv/installed ## Measure the language: names, docstrings, prose, comments, imports, each beside its limit
	.venv/bin/python -m tests.words

lint: .venv/installed ## Check style, types and floors
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m tests.words

test-matrix: $(MATRIX:%=.venv-airflow-%/installed) ## Run the Airflow part of the suite with older Airflows
	set -e; for version in $(MATRIX); do \
	  echo "Airflow $$version"; ".venv-airflow-$$version/bin/python" -m pytest -q $(WORKERS) tests/airflow; done

format: .venv/installed ## Format the code, and mend what can be mended by itself
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

pins: .venv/installed ## Pin the newest versions of all dependencies anew, for Python 3.11 and later
	for airflow in 3.3 3.2 2.11; do \
	  if [ $$airflow = 3.3 ]; then group=dev; else group=test; fi; \
	  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	    --extra airflow --extra demo --group $$group \
	    --output-file $(PINS)/airflow-$$airflow.txt pyproject.toml $(PINS)/airflow-$$airflow.in || exit 1; done
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  --extra demo --group bench --output-file $(PINS)/bench.txt pyproject.toml

clean: ## Remove the environments and all that tools have left
	rm -rf .venv .venv-airflow-* .venv-bench .venv-bench-peers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made anew when its pins change; the checkout itself is installed in place.
# A recipe has a Python with venv in $python, and fails by naming what is missing.
define find_python
python=; for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11 python3.14; do \
  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= $(1))' 2>/dev/null; \
  then python=$$candidate; break; fi; done; \
if [ -z "$$python" ]; then \
  echo "No Python from 3.11 to $(2) with venv found. Install one (on Debian: python3 and python3-venv), or name it: make PYTHON=..." >&2; exit 1; fi
endef

# install: the environment's directory, its pins, the newest Python that will do (as a tuple, and in words)
define install
$(call find_python,$(3),$(4)); \
if [ "$$(cat $(2))" != "$$(cat $(1)/pins.txt 2>/dev/null)" ]; then \
  echo "Making $(1) with $$($$python --version)"; \
  rm -rf $(1) && "$$python" -m venv $(1) && \
  { { $(1)/bin/python -m pip install --quiet $(UV) && \
      $(1)/bin/uv pip install --quiet --python $(1)/bin/python --requirement $(2); } || \
    $(1)/bin/python -m pip install --quiet --requirement $(2); } && \
  cp $(2) $(1)/pins.txt; \
fi
$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
touch $(1)/installed
endef

.venv/installed: $(PINS)/airflow-3.3.txt pyproject.toml
	@$(call install,.venv,$<,(3, 14),3.14)

.venv-bench/installed: $(PINS)/bench.txt pyproject.toml
	@$(call install,.venv-bench,$<,(3, 14),3.14)

.venv-airflow-3.2/installed: $(PINS)/airflow-3.2.txt pyproject.toml
	@$(call install,.venv-airflow-3.2,$<,(3, 14),3.14)

.venv-airflow-2.11/installed: $(PINS)/airflow-2.11.txt pyproject.toml
	@$(call install,.venv-airflow-2.11,$<,(3, 12),3.12)
