# Plain `make` lists the targets. What may be chosen: `make setup PYTHON=python3.12 TORCH_INDEX=https://...`.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
CUDA ?=
EXTRAS ?= dev,eval,ray,train
BIN := .venv/bin
export PYTHONUNBUFFERED := 1

CSRC := kbit/kernels/csrc
CSOURCES := $(wildcard $(CSRC)/*)
DRIVER := env PATH="$(CURDIR)/$(BIN):$$PATH" scripts/run_driver.sh

.PHONY: help setup build demo test test-slow lint fix types docs bench asan tsan neon wheel clean
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: .venv/.developer  ## .venv with everything that a developer needs
build: .venv/.core  ## compile the kernels again, after a change of C++
demo: .venv/.core  ## study the bundled family, fit its law, plan for 2 MB, write report/index.html
	@scripts/demo.sh
test: .venv/.developer  ## the tests but the slow ones
	$(BIN)/pytest
test-slow: .venv/.developer  ## the slow tests
	$(BIN)/pytest -m slow
lint: .venv/.developer  ## style, formatting and the floors
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CSRC)/*.h $(CSRC)/*.cpp
fix: .venv/.developer  ## mend style and formatting
	$(BIN)/ruff check --fix && $(BIN)/ruff format
	$(BIN)/clang-format -i $(CSRC)/*.h $(CSRC)/*.cpp
types: .venv/.developer  ## check the types
	$(BIN)/mypy
docs: .venv/.developer  ## write the generated pages: help of the commands, tables of levels
	$(BIN)/python scripts/make_docs.py
bench: .venv/.developer  ## run every benchmark
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
asan: .venv/.developer  ## the kernels without Python, under the address and undefined-behaviour sanitizers
	$(DRIVER) asan -DKBIT_SANITIZE=address,undefined
tsan: .venv/.developer  ## the same under the thread sanitizer
	$(DRIVER) tsan -DKBIT_SANITIZE=thread
neon: .venv/.developer  ## the same on an emulated ARM machine; needs g++-aarch64-linux-gnu and qemu-user
	$(DRIVER) neon
wheel: .venv/.core  ## build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation -w dist .
clean:  ## remove what was built; the environment and the runs stay
	rm -rf build dist report *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.venv/.core: pyproject.toml scripts/install_torch.py scripts/install_build_tools.py $(CSOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make setup PYTHON=..."; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { echo "No venv in $(PYTHON): on Debian, apt-get install python3-venv"; exit 1; }
	$(BIN)/python scripts/install_torch.py $(TORCH) --index "$(TORCH_INDEX)" $(if $(CUDA),--cuda)
	$(BIN)/python scripts/install_build_tools.py
	$(BIN)/pip install --quiet --no-build-isolation -e .
	@touch $@
.venv/.developer: pyproject.toml | .venv/.core
	$(BIN)/pip install --quiet --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@
