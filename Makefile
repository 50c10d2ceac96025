# All that is needed is make and Python 3.11 or newer. `make` alone lists the targets.
#
# PYTHON          the interpreter that .venv is made with:  make .venv PYTHON=python3.12
# TORCH_PIP_ARGS  more arguments for the `pip install` of torch. Pip's own choice on Linux is the build for NVIDIA GPUs,
#                 several gigabytes. For the small build without CUDA, name the index of CPU wheels that PyTorch's
#                 installation page gives:  make .venv TORCH_PIP_ARGS="--index-url <that index>"

# For `make atlas`: TEACHER, a folder in the format of sentence-transformers or its name on the Hub, if not models/e5-small;
# DATA, a folder of texts and translations as benchmarks/atlas_rows.py reads it.

# For `make gpu-check`, on a machine with a GPU: SECONDS for all its parts, OUT a folder, REHEARSE=1 tiny shapes on a CPU,
# PARTS="steps profile" some of it. Where there is no .venv it runs on python3 and takes what is missing from WHEELS.

PYTHON ?= python3
TORCH_PIP_ARGS ?=
TORCH := torch>=2.11,<2.14
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
QUIETLY = > .venv/pip.log 2>&1 || { cat .venv/pip.log >&2; exit 1; }  # pip's hundreds of lines only where it fails

.PHONY: help .venv demo atlas test test-slow test-oldest soak lint gpu-check gpu-wheels wheel docs clean

help: ## this list
	@sed -n 's/^\([a-z.-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.venv: $(STAMP) ## tessera and all it needs, in .venv (done once, and again when pyproject.toml changes)

# torch comes first and alone, so that TORCH_PIP_ARGS touches nothing else.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "tessera needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name a newer one: make $(or $(MAKECMDGOALS),.venv) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@echo "torch and tessera with its libraries go into .venv; this takes some minutes (.venv/pip.log)"
	@$(PIP) install $(TORCH_PIP_ARGS) "$(TORCH)" $(QUIETLY)
	@$(PIP) install -e ".[prepare,cluster,gigatoken,evaluate,export,report,serve,search,demo,docs,dev]" $(QUIETLY)
	@touch $@

demo: $(STAMP) ## make the text of the demo, a small multilingual encoder from it, and see it at work
	@$(BIN)/tessera demo

TEACHER ?= models/e5-small
DATA ?= ../shared/data
ATLAS := models/atlas
ATLAS_ROWS := 93300
# Of a Unigram vocabulary, as that of XLM-R and e5; 0 for a teacher with another, which is refused with it.
ATLAS_PRIOR := 0.3
ATLAS_NEW_ROWS := 6500
ATLAS_RANK := 192
ATLAS_LAYERS := 0,1,2,3,5,7,9,11
ATLAS_NEURONS := 960
COMMA := ,
ATLAS_START := $(ATLAS)/start/$(words $(subst $(COMMA), ,$(ATLAS_LAYERS)))-layers-$(ATLAS_NEURONS)
ATLAS_STEPS := 4000
ATLAS_RATE := 6e-4
ATLAS_ANCHORS := 4096
POLITELY := nice -n 10 $(BIN)

ifneq ($(SMALL)$(SCRATCH),)
FROM_SCRATCH := $(if $(SMALL),atlas-small,atlas)
atlas: $(STAMP)
	@echo "$(if $(SMALL),some twenty minutes,many hours) on two cores; after a stop the same command goes on"
	@$(POLITELY)/tessera run recipes/$(FROM_SCRATCH).yaml --out runs/$(FROM_SCRATCH) --set phases.distil.distil.teacher=$(TEACHER)
else
atlas: $(ATLAS)/model/config.json ## search across 450 languages, small: TEACHER's student, two hours; SCRATCH=1: from raw text, many; SMALL=1: 20 minutes
endif

$(ATLAS)/rows/train.jsonl.zst: $(STAMP)
	@echo "two hours on two cores in all, several times that where they have no bfloat16 (tessera doctor); after a stop the same command goes on"
	$(POLITELY)/python benchmarks/atlas_rows.py $(DATA) $(ATLAS)

$(ATLAS)/trimmed/config.json: $(ATLAS)/rows/train.jsonl.zst
	$(POLITELY)/tessera vocabulary trim $(TEACHER) --text $(ATLAS)/text/vocabulary.jsonl.zst --language mul_Latn \
	  --size $(ATLAS_ROWS) --prior $(ATLAS_PRIOR) --sample-bytes 100MB --no-timing --out $(@D)

$(ATLAS)/extended/config.json: $(ATLAS)/trimmed/config.json
	$(POLITELY)/tessera vocabulary extend $(<D) --text $(ATLAS)/text/new.jsonl.zst --language mul_Latn --tokens $(ATLAS_NEW_ROWS) --out $(@D)

$(ATLAS)/narrow/config.json: $(ATLAS)/extended/config.json
	$(POLITELY)/tessera vocabulary factor $(<D) --text $(ATLAS)/text/vocabulary.jsonl.zst --language mul_Latn \
	  --sample-bytes 100MB --rank $(ATLAS_RANK) --out $(@D)

$(ATLAS_START)/config.json: $(ATLAS)/narrow/config.json
	$(POLITELY)/tessera shrink $(<D) --text $(ATLAS)/text/vocabulary.jsonl.zst --text-language mul_Latn --keep $(ATLAS_LAYERS) \
	  --neurons $(ATLAS_NEURONS) --no-teaching --no-timing --out $(ATLAS)/start

$(ATLAS)/model/config.json: $(ATLAS_START)/config.json
	$(POLITELY)/tessera finetune $(<D) $(ATLAS)/rows --kind distil --teacher $(TEACHER) --temperature 0.7 \
	  --source-share 0.05 --anchors $(ATLAS_ANCHORS) --seeds 1 --steps $(ATLAS_STEPS) --batch 128 --rates $(ATLAS_RATE) --max-length 128 --out $(@D)

test: $(STAMP) ## the quick tests, on two processes
	$(BIN)/pytest -m "not slow and not gpu" -n 2

test-slow: $(STAMP) ## the tests that take more than ten seconds each
	$(BIN)/pytest -m "slow and not gpu"

# What pyproject.toml allows at the least, of the libraries that models and training stand on; in an environment of its own.
OLDEST := torch==2.11.* transformers==5.18.* numpy==2.1.* pydantic==2.11.* pyarrow==24.* torch-optimi==0.3.3
OLD := .venv-oldest/bin

test-oldest: ## the tests of models and training on the oldest libraries that pyproject.toml allows
	@test -x $(OLD)/python || $(PYTHON) -m venv .venv-oldest
	@$(OLD)/python -m pip --disable-pip-version-check install -q $(TORCH_PIP_ARGS) $(OLDEST)
	@$(OLD)/python -m pip --disable-pip-version-check install -q -e ".[dev]" $(OLDEST)
	$(OLD)/pytest -m "not slow and not gpu" tests/model tests/train tests/inference tests/gpu tests/benchmarks

SOAK_MODEL ?= runs/demo/merged/final
SOAK_SECONDS ?= 600
soak: $(STAMP) ## ten minutes of requests to `tessera serve`, its memory watched: SOAK_MODEL=FOLDER SOAK_SECONDS=600
	$(BIN)/python benchmarks/serving.py --model $(SOAK_MODEL) --texts README.md --only soak --seconds $(SOAK_SECONDS)

lint: $(STAMP) ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

OUT ?= build/gpu-check
WHEELS ?= .wheels
SECONDS ?= 300
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)

gpu-check: ## on a GPU: right? how fast? where does the time go? what fits into SECONDS=300, in order of worth
	$(GPU_PYTHON) benchmarks/gpu_check.py --out $(OUT) --seconds $(SECONDS) $(if $(PARTS),--parts $(PARTS)) \
	  $(if $(wildcard $(WHEELS)/*.whl),--wheels $(WHEELS)) $(if $(REHEARSE),--rehearse)

# Nothing is fetched on a machine without a network: this is for one that has it, --no-deps names each package.
gpu-wheels: ## what a bare GPU machine (Python 3.12 on Linux, torch, transformers) lacks, as wheels in WHEELS=.wheels
	@$(GPU_PYTHON) -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	  $(foreach tag,manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1,--platform $(tag)_x86_64) -d $(WHEELS) \
	  pydantic pydantic-core annotated-types typing-inspection "typing-extensions>=4.16" torch-optimi zstandard \
	  liger-kernel cut-cross-entropy
	@du -sh $(WHEELS)

wheel: $(STAMP) ## the source archive and the wheel in dist/, tried in an environment of its own
	@.ci/wheel

docs: $(STAMP) ## the guides and the API reference as pages in site/, which open offline: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove caches and build products; .venv and runs/ stay
	rm -rf build dist site *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name .venv -prune -o -name runs -prune -o -type d -name __pycache__ -exec rm -rf {} +
