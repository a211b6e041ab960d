# Every target sets itself up: the virtual environment is made once and made again only when the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data

.PHONY: demo test check bench clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	$(BIN)/hypermend demo

test: $(VENV)/.installed-test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_architecture.py

# Needs the real scenes in $(DATA) and the better part of a day on two cores; CAVE is scored on the scenes that no training saw.
VALIDATION := fake_and_real_peppers paints thread_spools
DENOISE = $(BIN)/python -m benchmarks.denoise --data $(DATA)/cave --scenes $(VALIDATION)
FUSION = $(BIN)/python -m benchmarks.fusion --data $(DATA)/cave --scenes $(VALIDATION)
CLOSED := --methods bicubic floor least-squares
RESULTS := benchmarks/results

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.io --data $(DATA) > $(RESULTS)/io.part
	mv $(RESULTS)/io.part $(RESULTS)/io.jsonl
	$(BIN)/python -m benchmarks.search merged cost > $(RESULTS)/search.part
	mv $(RESULTS)/search.part $(RESULTS)/search.jsonl
	$(BIN)/python -m benchmarks.search ranking tau choices transfer strategies domains --data $(DATA) \
		--units $(RESULTS)/search_units.part > $(RESULTS)/tables.part
	mv $(RESULTS)/search_units.part $(RESULTS)/search_units.jsonl
	mv $(RESULTS)/tables.part $(RESULTS)/search_tables.jsonl
	$(DENOISE) > $(RESULTS)/denoise.part
	mv $(RESULTS)/denoise.part $(RESULTS)/denoise.jsonl
	$(DENOISE) --low-noise > $(RESULTS)/low-noise.part
	mv $(RESULTS)/low-noise.part $(RESULTS)/denoise_low_noise.jsonl
	$(BIN)/python -m benchmarks.denoise --real --data $(DATA) > $(RESULTS)/real.part
	mv $(RESULTS)/real.part $(RESULTS)/denoise_real.jsonl
	$(FUSION) > $(RESULTS)/fusion.part
	mv $(RESULTS)/fusion.part $(RESULTS)/fusion.jsonl
	($(FUSION) --snr-db 35 $(CLOSED) && $(FUSION) --snr-db 30 $(CLOSED) && $(FUSION) --scale 32 $(CLOSED)) > $(RESULTS)/harder.part
	mv $(RESULTS)/harder.part $(RESULTS)/fusion_harder.jsonl
	$(BIN)/python -m benchmarks.fusion_real --data $(DATA) > $(RESULTS)/pairs.part
	mv $(RESULTS)/pairs.part $(RESULTS)/fusion_real.jsonl
	$(BIN)/python -m benchmarks.fusion --data $(DATA)/cave --scenes paints --crop 128 --methods hypermend paper-schedule \
		> $(RESULTS)/schedule.part
	mv $(RESULTS)/schedule.part $(RESULTS)/fusion_schedule.jsonl
	$(BIN)/python -m benchmarks.sharpen --data $(DATA)/cave --scenes $(VALIDATION) > $(RESULTS)/sharpen.part
	mv $(RESULTS)/sharpen.part $(RESULTS)/sharpen.jsonl
	$(BIN)/python -m benchmarks.training --data $(DATA) > $(RESULTS)/training.part
	mv $(RESULTS)/training.part $(RESULTS)/training.jsonl
	$(BIN)/python -m benchmarks.ssrnet > $(RESULTS)/ssrnet.part
	mv $(RESULTS)/ssrnet.part $(RESULTS)/ssrnet.jsonl
	$(BIN)/python -m benchmarks.cluster > $(RESULTS)/cluster.part
	mv $(RESULTS)/cluster.part $(RESULTS)/cluster.jsonl
	$(BIN)/python -m benchmarks.real_cluster > $(RESULTS)/real-cluster.part
	mv $(RESULTS)/real-cluster.part $(RESULTS)/real_cluster.jsonl
	$(BIN)/python -m benchmarks.loader > $(RESULTS)/loader.part
	mv $(RESULTS)/loader.part $(RESULTS)/loader.jsonl

clean:
	rm -rf $(VENV) demo-archive .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hypermend needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@
