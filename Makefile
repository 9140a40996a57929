# make demo    set up, then train and evaluate the whole method on handwritten digits
# make test    set up, then run the whole test suite
# make lint    set up, then ruff and mypy
# make reliability    set up, then measure docs/reliability.md anew; half an hour and more, and root for small disks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
SEED ?= 0
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test lint reliability format clean

demo: $(VENV)/.installed
	$(BIN)/rarl demo --out runs/demo$(if $(filter-out 0,$(SEED)),-$(SEED)) --seed $(SEED)

# One thread for each of the workers: more would fight over the cores.
test: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet -n auto --dist worksteal

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reliability: $(VENV)/.tested
	$(BIN)/python reliability/run.py --write

format: $(VENV)/.tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rarl needs Python 3.11 or later, and $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# Made anew only when the dependencies change.
$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing rarl and its dependencies into $(VENV) (once; some minutes)"
	$(PIP) --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) --editable '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build src/*.egg-info
