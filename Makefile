# Every target sets up what it needs; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.ready
BIN := $(VENV)/bin
IMAGE ?= controlset

# Programs start twice as fast from compiled files, and the tests start hundreds: also where the
# environment forbids Python to write them beside the sources.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache

.DEFAULT_GOAL := help
.PHONY: help setup check test test-all docs demo bench flink spark prism lock image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## environment in .venv, from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "setup: need Python 3.11 or newer, got $$($(PYTHON) --version 2>&1); use make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(STAMP)

check: setup ## format, lint, types, import rules
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --no-cache --quiet .
	$(BIN)/pyright
	$(BIN)/lint-imports

test: setup ## what proves the product on this machine (two processes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not slow" -n 2 --dist worksteal

test-all: test ## what is long by nature, too: clusters, wheel, kill loops, stores, memory
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -q -m slow -n 2 --dist loadfile --no-loadscope-reorder \
	  $$(grep -rl --include='test_*.py' mark.slow tests)  # to import the others takes 20 s

docs: setup ## the documentation as a site in build/site, with its links checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

demo: setup ## pictures -> data set -> ControlNet -> numbers -> report (11 minutes on two cores)
	$(BIN)/controlset demo --output demo-output

bench: setup ## throughput and memory, as in BENCHMARKS.md (an hour)
	$(BIN)/python -m benchmarks.generate_throughput
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.annotator_throughput
	$(BIN)/python -m benchmarks.captioner_throughput
	$(BIN)/python -m benchmarks.one_pass
	$(BIN)/python -m benchmarks.loader_throughput
	$(BIN)/python -m benchmarks.sampler_throughput
	$(BIN)/python -m benchmarks.object_stores

flink spark: setup ## the main job on a real Flink or Spark on this machine (Java 17, Maven; SOURCE=pictures)
	$(BIN)/python -m tools.clusters $@ $(SOURCE)

prism: ## Beam's runner in Go, for the tests of portable runners (needs Go)
	go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0

lock: setup ## resolve requirements.lock anew
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --upgrade --quiet \
	  --no-emit-index-url --no-annotate --output-file requirements.lock

image: setup ## container images of worker and trainer (needs Docker; see docs/dataflow.md)
	@docker version >/dev/null 2>&1 || \
	  { echo "image: need a Docker engine that answers, found none; start one" >&2; exit 2; }
	rm -rf dist
	$(BIN)/uv build --wheel --quiet --out-dir dist .
	docker build --file docker/worker.Dockerfile --tag $(IMAGE)-worker --build-arg WEIGHTS="$(WEIGHTS)" .
	docker build --file docker/trainer.Dockerfile --tag $(IMAGE)-trainer .
