# All that is needed is make and Python 3.11 or newer. `make` alone lists the targets.
#
# PYTHON          the interpreter that .venv is made with:  make .venv PYTHON=python3.12
# TORCH_PIP_ARGS  more arguments for the `pip install` of torch. Pip's own choice on Linux is the build for NVIDIA GPUs,
#                 several gigabytes. For the small build without CUDA, name the index of CPU wheels that PyTorch's
#                 installation page gives:  make .venv TORCH_PIP_ARGS="--index-url <that index>"

PYTHON ?= python3
TORCH_PIP_ARGS ?=
TORCH := torch>=2.11,<2.14
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUIETLY = > .venv/pip.log 2>&1 || { cat .venv/pip.log >&2; exit 1; }  # pip's hundreds of lines only where it fails

.PHONY: help .venv demo test test-slow soak lint wheel docs clean

help: ## this list
	@sed -n 's/^\([a-z.-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

.venv: $(STAMP) ## tessera and all it needs, in .venv (done once, and again when pyproject.toml changes)

# torch comes first and alone, so that TORCH_PIP_ARGS touches nothing else.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "tessera needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name a newer one: make $(or $(MAKECMDGOALS),.venv) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@echo "torch and tessera with its libraries go into .venv; this takes some minutes (.venv/pip.log)"
	@$(PIP) install $(TORCH_PIP_ARGS) "$(TORCH)" $(QUIETLY)
	@$(PIP) install -e ".[prepare,cluster,gigatoken,evaluate,export,report,serve,demo,docs,dev]" $(QUIETLY)
	@touch $@

demo: $(STAMP) ## make the text of the demo, a small multilingual encoder from it, and see it at work
	@$(BIN)/tessera demo

test: $(STAMP) ## the quick tests, on two processes
	$(BIN)/pytest -m "not slow" -n 2

test-slow: $(STAMP) ## the tests that take more than ten seconds each
	$(BIN)/pytest -m slow

SOAK_MODEL ?= runs/demo/merged/final
SOAK_SECONDS ?= 600
soak: $(STAMP) ## ten minutes of requests to `tessera serve`, its memory watched: SOAK_MODEL=FOLDER SOAK_SECONDS=600
	$(BIN)/python benchmarks/serving.py --model $(SOAK_MODEL) --texts README.md --only soak --seconds $(SOAK_SECONDS)

lint: $(STAMP) ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(STAMP) ## the source archive and the wheel in dist/, tried in an environment of its own
	@.ci/wheel

docs: $(STAMP) ## the guides and the API reference as pages in site/, which open offline: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove caches and build products; .venv and runs/ stay
	rm -rf build dist site *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name .venv -prune -o -name runs -prune -o -type d -name __pycache__ -exec rm -rf {} +
