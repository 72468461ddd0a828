# make        what there is to do
# make train  everything from nothing: .venv, the pinned set, a first training run

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= mesh_configs/default.yaml
ARGS ?=
PYTEST_ARGS ?=
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
PYTHON_OK := $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info >= (3, 11)))' 2>/dev/null)

# CPU, cuda12 or cuda13, from the NVIDIA driver: CUDA 13 needs driver 580, CUDA 12 needs 525.
ifeq ($(origin ACCELERATOR), undefined)
  CHOSEN :=
  DRIVER := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null \
      | sed -n '1s/^\([0-9][0-9]*\)\..*/\1/p')
  ACCELERATOR := $(shell d='$(DRIVER)'; if [ -z "$$d" ]; then echo cpu; \
      elif [ "$$d" -ge 580 ]; then echo cuda13; elif [ "$$d" -ge 525 ]; then echo cuda12; \
      else echo old; fi)
else
  CHOSEN := --mesh.platform $(if $(filter cpu,$(ACCELERATOR)),cpu,gpu)
endif

comma := ,
EXTRAS := $(filter cuda12 cuda13,$(ACCELERATOR))

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The compiler for GPUs that are not there: beside the packages, since a CUDA plugin among them
# complains in every program that runs on the CPU.
AOT := $(VENV)/aot
KIND := $(PYTHON_VERSION)-$(ACCELERATOR)
NEW_STAMP := $(VENV)/.new-$(KIND)
RUN_STAMP := $(VENV)/.run-$(KIND)
DEV_STAMP := $(VENV)/.dev-$(KIND)

.PHONY: help install train test test-all lint docs notebooks check-machine
help:
	@echo "make install   install what a run needs into $(VENV)"
	@echo "make train     the same, train $(CONFIG), and draw the run's page"
	@echo "make test      the everyday tests"
	@echo "make test-all  every test, the long ones too"
	@echo "make lint      ruff and pyright"
	@echo "make docs      the documentation as a site, in build/site"
	@echo "make notebooks run the notebooks again: outputs and pictures from their sources"
	@echo
	@echo "PYTHON=python3.12                   the Python that makes $(VENV) (now: $(PYTHON), $(PYTHON_VERSION))"
	@echo "ACCELERATOR=cpu|cuda12|cuda13       overrides the choice made from the driver (now: $(ACCELERATOR))"
	@echo "CONFIG=mesh_configs/X.yaml          the recipe that 'make train' runs"
	@echo "ARGS=\"--train.num_steps 50\"         more settings for it"
	@echo "PYTEST_ARGS=\"-k schedule\"           more arguments for pytest"

install: $(RUN_STAMP)
	@echo "Installed for $(ACCELERATOR): $(BIN)/python train.py --help"

# Its page is drawn after a run, and only then: ARGS may ask for help or for another command.
train: $(RUN_STAMP)
	@$(BIN)/python train.py --config $(CONFIG) $(CHOSEN) $(ARGS)
ifeq ($(filter -h --help --print_config evaluate generate export plan report,$(ARGS)),)
	@$(BIN)/python train.py report --config $(CONFIG) $(CHOSEN) $(ARGS)
endif

test: $(DEV_STAMP)
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(DEV_STAMP)
	@$(PYTEST) $(PYTEST_ARGS)

lint: $(DEV_STAMP)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m pyright --pythonpath $(BIN)/python

# The theme's maintainers announce their successor at every start; a warning of the build ends it.
docs: $(DEV_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "built: build/site/index.html"

notebooks: $(DEV_STAMP)
	@$(BIN)/python notebooks

# A stamp is younger than what it was made from, so the second call installs nothing.
$(RUN_STAMP): $(NEW_STAMP)
	@echo "Installing the pinned set for $(ACCELERATOR) into $(VENV) ..."
	@$(PIP) -e '.$(addsuffix ],$(addprefix [,$(EXTRAS)))'
	@touch $@

$(DEV_STAMP): $(NEW_STAMP)
	@echo "Installing the pinned set for $(ACCELERATOR) and the test tools into $(VENV) ..."
	@$(PIP) -e '.[$(addsuffix $(comma),$(EXTRAS))dev]'
	@test $(ACCELERATOR) != cpu || $(PIP) --no-deps --upgrade --target $(AOT) jax-cuda12-pjrt
	@touch $(RUN_STAMP) $@

$(NEW_STAMP): pyproject.toml constraints.txt | check-machine
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

check-machine:
	@if [ -z "$(PYTHON_VERSION)" ]; then \
	  echo "'$(PYTHON)' is not a Python that runs; name one of 3.11 or newer: make PYTHON=python3.12" >&2; exit 2; fi
	@if [ "$(PYTHON_OK)" != 1 ]; then \
	  echo "$(PYTHON) is Python $(PYTHON_VERSION); 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 2; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$(PYTHON) cannot make a virtual environment (no ensurepip);" \
	    "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; fi
	@case "$(ACCELERATOR)" in cpu|cuda12|cuda13) ;; \
	  old) echo "NVIDIA driver $(DRIVER) is too old: CUDA 12 needs 525, CUDA 13 needs 580;" \
	    "update it, or use the CPU: make ACCELERATOR=cpu" >&2; exit 2;; \
	  *) echo "ACCELERATOR=$(ACCELERATOR) is not one of cpu, cuda12, cuda13" >&2; exit 2;; esac
