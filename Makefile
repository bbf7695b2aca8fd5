# Two commands: `make demo` and `make test`. Everything lives in .venv and in demo_run/.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= demo_run

.PHONY: setup demo test test-slow lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/cm3leon demo --workdir=$(WORKDIR)

test: setup
	$(BIN)/python -m pytest -q tests

# What takes longer: processes that are really killed, steps compiled for whole pods, parity with the reference packages.
test-slow: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-reference.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps clean-fid==0.1.35  # its resize alone: no torchvision
	$(BIN)/python -m pytest -q -m slow tests

lint: setup
	$(BIN)/ruff check cm3leon_jax tests benchmarks launch

clean:
	rm -rf $(WORKDIR) demo_quick
