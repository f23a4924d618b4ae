.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Processes of `make train`: one per GPU, or 2 on the CPU. The shell asks torch, as make reads this before there is a .venv.
NPROC ?= $$(.venv/bin/python -c 'import torch; print(torch.cuda.device_count() or 2)')
ARGS =
# Tests that run side by side.
JOBS = 2
CSRC = $(foreach extension,cpp cu cuh h,$(wildcard csrc/*.$(extension) csrc/*/*.$(extension)))

.PHONY: train
train: setup ## train on the embedded digits, or resume; pictures in runs/digits-dcgan/samples (NPROC=4 ARGS='--run.dir runs/a')
	@nproc=$(NPROC); set -x; OMP_NUM_THREADS=1 .venv/bin/torchrun --nproc_per_node $$nproc -m distgan.train $(ARGS)

.PHONY: test
test: setup ## the tests, without the slow ones of test-faults, test-quality and test-image
	.venv/bin/pytest --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder tests --ignore=tests/faults --ignore=tests/quality --ignore=tests/image

.PHONY: test-faults
test-faults: setup ## the tests that kill, cut and corrupt things
	.venv/bin/pytest tests/faults

.PHONY: test-quality
test-quality: setup ## train the default recipe to its end and have the digits judged
	.venv/bin/pytest tests/quality -s

.PHONY: test-image
test-image: setup ## build the image (buildah, mmdebstrap, root) and run it as Kubernetes does
	.venv/bin/pytest tests/image -s

.PHONY: lint
lint: setup ## ruff, pyright and clang-format; changes nothing
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright
	$(if $(CSRC),.venv/bin/clang-format --dry-run -Werror $(CSRC))

.PHONY: setup
setup: .venv/.installed ## .venv with everything (PYTHON=/path/to/python picks the interpreter)

.venv/.installed: pyproject.toml setup.py constraints.txt launch/setup.sh csrc/build.py $(CSRC)
	@launch/setup.sh
	@touch $@

.PHONY: clean
clean: ## remove .venv and everything built; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -f distgan/ops/*.so
	find csrc distgan tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'
