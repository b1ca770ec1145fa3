# Two commands on a fresh machine: `make demo` and `make test`. Both make the virtual environment .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
ROOMS := trainers tune launch cluster

SECONDS ?= 120
SEED ?=

.PHONY: demo test test-slow test-cluster soak check types bench constraints clean

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not terraform and not hosts"

# What takes long to show: kills at every stage, partitions, hung workers, other numbers of workers.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not terraform and not hosts"

# What needs Terraform, or hosts in network namespaces (root, iproute2, sshd), and not only Python and pip.
test-cluster: $(VENV)/.dev
	$(BIN)/python -m pytest -m "terraform or hosts"

# Faults at random, for SECONDS, from a SEED that brings the same ones again: `make soak SECONDS=600 SEED=7`.
soak: $(VENV)/.dev
	$(BIN)/python -m tests.faults.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

check: $(VENV)/.dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests/test_structure.py

# mypy does not follow setuptools' package-dir: it reads the rooms through links under build/types/tuneyard.
types: $(VENV)/.dev
	mkdir -p build/types/tuneyard
	for room in $(ROOMS); do ln -sfn ../../../$$room build/types/tuneyard/$$room; done
	$(BIN)/mypy -p tuneyard.trainers -p tuneyard.tune -p tuneyard.launch -p tuneyard.cluster
	$(BIN)/mypy examples benchmarks tests

# About an hour on an idle machine; each script ends with one line of JSON.
bench: $(VENV)/.bench
	for script in trainer_overhead trial_turnaround startup memory shared_cores input_path search_quality \
			sweep_efficiency driver_load warm_memory recovery checkpoint; do \
		$(BIN)/python benchmarks/$$script.py || exit 1; \
	done

# Renews constraints.txt with today's newest versions of everything that any extra needs.
constraints: $(VENV)/.dev
	$(BIN)/pip-compile --quiet --upgrade --all-extras --strip-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
		--output-file constraints.txt pyproject.toml

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing tuneyard into $(VENV): about 7 GB with torch's CUDA libraries; some minutes."
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing tuneyard and its test tools into $(VENV): about 7 GB with torch's CUDA libraries; some minutes."
	$(PIP) --editable '.[demo,dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[demo,dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) build runs *.egg-info
