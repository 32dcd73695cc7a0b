# make        lists the targets
# make demo   from a fresh clone to a trained, tested model
#
# VENV=dir    another virtual environment        PYTHON=python3.12   another interpreter
# JOBS=4      more test workers (each holds a backend or two: about 2 GB)

.DEFAULT_GOAL := help
# One recipe at a time: two pips in one environment break it, and the rest uses every core anyway.
.NOTPARALLEL:
.PHONY: help venv demo test lint bench clean

VENV ?= .venv
JOBS ?= 2
# Tried by running, as a pyenv shim exists for versions it cannot run and Debian's python may lack ensurepip.
# python3 comes first: it is the one its owner chose. Expanded only where used, so `make clean` looks for nothing.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	>/dev/null 2>&1 && { echo "$$p"; break; }; done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
SAY := @printf 'rightfit: %s\n'
INSTALL_FAILED = { printf '%s\n' \
	'rightfit: the installation failed; the lines above say why.' \
	'  no network, or a download that broke off: run the same command again, pip keeps what it has' \
	'  disk full: the whole environment takes about 4 GB (`make demo` alone about 3 GB)' \
	'  anything else: `rm -rf $(VENV)` and run it again, or PYTHON=python3.12 for another interpreter' >&2; exit 1; }

help:
	@printf '%s\n' \
	'make demo    train and evaluate on 2,624 photographs of solar cells (a first run installs 3 GB)' \
	'make test    the whole test suite' \
	'make lint    ruff and mypy' \
	'make bench   every benchmark in its quick form, and the goals beside what was measured' \
	'make venv    only the environment that test, lint and bench use' \
	'make clean   remove .venv, build/, dist/ and caches; runs/ stays'

venv: $(VENV)/.dev

$(BIN)/python:
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
		echo 'rightfit: no Python 3.11, 3.12 or 3.13 with venv found; install one' \
			'(Debian: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python' >&2; exit 1; fi; \
	echo "rightfit: making $(VENV) with $$("$$python" --version) ($$python)"; \
	"$$python" -m venv '$(VENV)' || { rm -rf '$(VENV)'; exit 1; }

# KerasHub and tf-keras without their dependencies, which would bring plain tensorflow over tensorflow-cpu.
# The dev environment holds all that the demo's does, so it counts as both.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(SAY) 'installing rightfit with its tools and all three backends (some minutes the first time)'
	@$(PIP) -e '.[dev]' || $(INSTALL_FAILED)
	@$(PIP) --no-deps keras-hub kagglehub kagglesdk tokenizers tf-keras || $(INSTALL_FAILED)
	@touch $@ $(VENV)/.demo
	$(SAY) 'installed'

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(SAY) 'installing rightfit (a minute or two the first time)'
	@$(PIP) -e '.[demo]' || $(INSTALL_FAILED)
	@touch $@
	$(SAY) 'installed'

demo: $(VENV)/.demo
	@if [ -e runs/demo ] && [ ! -e runs/.made-by-make-demo ]; then \
		echo 'rightfit: runs/demo is there and `make demo` did not make it; move it away first' >&2; exit 1; fi
	@rm -rf runs/demo && mkdir -p runs && touch runs/.made-by-make-demo
	$(BIN)/python examples/elpv.py build/elpv
	$(BIN)/rightfit train build/elpv --positive defective --image-size 96 --epochs 12 --output runs/demo
	$(BIN)/rightfit evaluate runs/demo
	@printf '\nrightfit: done; the run is in runs/demo, its page is runs/demo/report.html. Next, label images with it:\n  %s\nor take your own:\n  %s\n' \
		'$(BIN)/rightfit predict runs/demo build/elpv/defective' '$(BIN)/rightfit train FOLDER --output runs/mine'
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; then \
		$(BIN)/python -m webbrowser -t "file://$(CURDIR)/runs/demo/report.html" >/dev/null 2>&1 || true; fi

# A file of tests stays with one worker, so that what it builds once it builds once.
test: $(VENV)/.dev
	$(SAY) 'testing with $(JOBS) workers'
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(SAY) 'ruff check'
	@$(BIN)/ruff check .
	$(SAY) 'ruff format --check'
	@$(BIN)/ruff format --check .
	$(SAY) 'mypy'
	@$(BIN)/mypy

# All run, whatever fails: a peer that fails is named and left out, rightfit itself makes the exit code.
BENCHMARKS = 'train_step.py --set resnet50-150' 'train_step.py --set resnet20-32' 'train_step.py --set epoch' \
	end_to_end.py input.py inference.py engines.py architectures.py memory.py growth.py time_to_accuracy.py \
	transfer.py import_check.py pretrained_digits.py half_precision.py options.py coverage.py reliability.py audit.py \
	label_errors.py class_balance.py old_generator.py doctor.py soup.py luckiest_epoch.py learning_curve.py \
	solar_cells.py tune.py scale.py fuzz.py gpu.py

bench: $(VENV)/.dev
	@rm -rf build/bench; failed=; for run in $(BENCHMARKS); do \
		echo "rightfit: benchmarks/$$run --quick"; \
		$(BIN)/python benchmarks/$$run --quick || failed="$$failed, $$run"; done; \
	$(BIN)/python benchmarks/goals.py; \
	if [ -n "$$failed" ]; then echo "rightfit: failed:$${failed#,}" >&2; exit 1; fi

# Only ./.venv: an environment named with VENV=... may be somebody's.
clean:
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	$(SAY) 'clean; runs/ is kept'
