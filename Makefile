PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
# What is linted: these and nothing that runs or users put beside them.
SOURCES := landscape cnognp analyses figures benchmarks tests

.PHONY: demo test test-all check-device install lint clean

# A population trained on real data, measured and drawn, and the minima maps of three functions.
demo: install
	$(RUN)/cnognp train wine --method cnognp --out runs/wine --resume
	$(RUN)/cnognp analyze runs/wine
	$(RUN)/cnognp plot runs/wine
	$(RUN)/cnognp demo himmelblau three-hump-camel six-hump-camel --out runs/demo
	@echo "Pictures: runs/wine/figures and runs/demo/figures"

test: install lint
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q -n 2 -m "not slow"

# The tests, and those besides that take long and rarely fail.
test-all: test
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q -n 2 -m slow

# What is checked on the best device that is here, and one benchmark of each kind: under 5 minutes
# on an accelerator, in small on a CPU. Nothing is installed: torch and NumPy have to be there.
check-device:
	PYTHONPATH=. $(or $(wildcard $(RUN)/python),$(PYTHON)) -m benchmarks.device --bfloat16

lint: install
	$(RUN)/ruff format --check $(SOURCES)
	$(RUN)/ruff check $(SOURCES)
	$(RUN)/mypy
	$(RUN)/lint-imports

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --upgrade pip
	$(RUN)/python -m pip install --quiet --editable '.[test,zoo]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs
