# Every target sets itself up: the virtual environment is made once and made again only when the dependencies change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data

# The build (CPU, CUDA) is that of your index, so the version is pinned and no hash; all else has hashes (make lock).
TORCH := torch==2.13.0

.PHONY: demo test test-long check lock audit bench clean FORCE
.NOTPARALLEL:  # benchmarks must not share the cores
unexport PYTHONDONTWRITEBYTECODE  # the tests start hundreds of interpreters, which would each compile Hypermend anew
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	$(BIN)/hypermend demo

test: $(VENV)/.installed-test
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

# What takes too long for every change: all mutations and kills, second engines and stores, the largest real scenes.
test-long: $(VENV)/.installed-test
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m long

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_architecture.py

# Writes the versions of $(VENV), in which the tests have passed, for every platform and Python, with the hashes of their
# files. To raise one: pip install it in $(VENV), make test, make lock.
compiled = echo '$(TORCH)' | $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' -c $(VENV)/frozen.txt pyproject.toml - $(1) \
	| awk '/^[a-z]/ { kept = !/^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==/ } /^\#/ || kept' > $(VENV)/lock.txt \
	&& test -s $(VENV)/lock.txt && mv $(VENV)/lock.txt $(2)

lock: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q uv
	$(BIN)/python -m pip list --format=freeze --exclude-editable | sed 's/+.*//' > $(VENV)/frozen.txt
	$(call compiled,,constraints.txt)
	$(call compiled,--extra test,constraints-test.txt)

# Known faults of the locked versions. It asks the network, so no test does it.
audit: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q uv
	$(BIN)/uvx pip-audit --disable-pip --require-hashes --requirement constraints-test.txt

# Needs the real scenes in $(DATA) and most of a day on two cores. CAVE is scored on the scenes that no training saw.
RESULTS := benchmarks/results
RUN := $(BIN)/python -m benchmarks
CAVE := --data $(DATA)/cave --scenes fake_and_real_peppers paints thread_spools
CLOSED := --methods bicubic floor least-squares

io = $(RUN).io --data $(DATA)
search = $(RUN).search merged cost
search_tables = $(RUN).search ranking tau choices transfer strategies domains --data $(DATA) \
	--units $(RESULTS)/search_units.part && mv $(RESULTS)/search_units.part $(RESULTS)/search_units.jsonl
denoise = $(RUN).denoise $(CAVE)
denoise_low_noise = $(RUN).denoise $(CAVE) --low-noise
denoise_sensors = $(RUN).denoise --sensors --data $(DATA) --crop 192 --sigma 10 30 50 --methods noisy estimate hypermend
denoise_real = $(RUN).denoise --real --data $(DATA)
mixed = $(RUN).mixed --data $(DATA)/cave --scenes fake_and_real_peppers paints --crop 128 --seeds 1 \
	--methods noisy moment column-l1 oracle hypermend hypermend-destripe
mixed_256 = $(RUN).mixed --data $(DATA)/cave --scenes fake_and_real_peppers paints --crop 256 --seeds 1 \
	--cases 2 5 --methods oracle hypermend hypermend-destripe
mixed_realistic = $(RUN).mixed --data $(DATA)/cave --scenes fake_and_real_peppers --crop 128 --seeds 2 \
	--cases 6 7 8 9 10 --methods noisy column-l1 oracle hypermend hypermend-destripe
clean_scenes = $(RUN).clean_scenes --data $(DATA) --crop 256
fusion = $(RUN).fusion $(CAVE)
fusion_harder = $(fusion) --snr-db 35 $(CLOSED) && $(fusion) --snr-db 30 $(CLOSED) && $(fusion) --scale 32 $(CLOSED)
fusion_real = $(RUN).fusion_real --data $(DATA)
fusion_schedule = $(RUN).fusion --data $(DATA)/cave --scenes paints --crop 128 --methods hypermend paper-schedule
sharpen = $(RUN).sharpen $(CAVE)
sharpen_real = $(RUN).sharpen --real --data $(DATA) --scale 2
uncertainty = $(RUN).uncertainty --data $(DATA)/cave --scenes fake_and_real_peppers paints thread_spools
training = $(RUN).training --data $(DATA)
ssrnet = $(RUN).ssrnet
cluster = $(RUN).cluster
real_cluster = $(RUN).real_cluster
loader = $(RUN).loader
browse = $(RUN).browse

BENCHMARKS := io search search_tables denoise denoise_low_noise denoise_sensors denoise_real mixed mixed_256 \
	mixed_realistic clean_scenes fusion fusion_harder fusion_real fusion_schedule sharpen sharpen_real uncertainty \
	training ssrnet cluster real_cluster loader browse

bench: $(BENCHMARKS:%=$(RESULTS)/%.jsonl)

# Each file of results has a command of its name above, and is replaced only when that has succeeded.
$(BENCHMARKS:%=$(RESULTS)/%.jsonl): $(RESULTS)/%.jsonl: FORCE | $(VENV)/.installed-test
	($($*)) > $(@:.jsonl=.part)
	mv $(@:.jsonl=.part) $@

clean:
	rm -rf $(VENV) demo-archive .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hypermend needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# Every package but torch is compared with its hash; to resolve is only what another build of torch brings.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r constraints.txt
	$(BIN)/python -m pip install -q $(TORCH) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed constraints-test.txt
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r constraints-test.txt
	$(BIN)/python -m pip install -q $(TORCH) -e '.[test]'
	touch $@
