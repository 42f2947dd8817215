# Every target sets up what it needs in .venv; `make demo` and `make test` are all a new user has to know.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo figures test test-full test-gpu lint type docs train-demonstration clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip==26.3" "setuptools==84.2.1"
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[export,cpu,openvino,pages,bench,tensorrt-rtx,docs,dev]"
	touch $@

demo: setup
	$(BIN)/python examples/demonstration/demo.py demo_output

# the figures of the README; needs `make demo` before
figures: setup
	$(BIN)/python examples/demonstration/figures.py demo_output/bundle docs/figures

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

test: setup lint type
	$(BIN)/pytest -m "not full and not gpu" -n 2 --dist worksteal

test-full: setup
	$(BIN)/pytest -m "full" -n 2 --dist worksteal

# the site, in build/site; a broken link fails
docs: setup
	$(BIN)/mkdocs build --strict

# on a machine with a GPU; DYNVID_GPU_BACKENDS=tensorrt,onnxruntime-cuda says which must be there
test-gpu: setup
	DYNVID_REQUIRE_GPU=1 $(BIN)/pytest -m gpu -s

# about an hour on one core: clips, then training; the result is committed as examples/demonstration/network.pth
train-demonstration: setup
	$(BIN)/python examples/demonstration/make_clips.py demo_output/train 8000 1
	$(BIN)/python examples/demonstration/make_clips.py demo_output/validation 1000 2
	$(BIN)/dynvid train examples/demonstration/train.toml -o demo_output/run
	cp demo_output/run/weights/last.pth examples/demonstration/network.pth

clean:
	rm -rf .venv build dist *.egg-info demo_output .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
