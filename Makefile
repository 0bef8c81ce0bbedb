# Two commands do everything: `make demo` (the main job) and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Without a GPU the CPU build of torch is pinned: any looser requirement pulls in several GB of CUDA.
CONSTRAINT := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c requirements/cpu.txt")
PROJECT ?= projects/nano_sora_cpu.yaml
RUN     ?= runs/$(basename $(notdir $(PROJECT)))

.PHONY: help demo test test-quick test-all setup install install-dev train train-small train-debug inference inference-heun \
        lint format check-gpu clean clean-all

help:           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 26

demo: setup     ## install, train on moving digits (two CPU cores: about 7 minutes), sample, report
	@$(BIN)/python tools/train.py projects/nano_sora_cpu.yaml
	@$(BIN)/python tools/sample.py runs/nano_sora_cpu --num 10 --grid --compare --format gif,png,mp4 --out runs/nano_sora_cpu/samples/demo --overwrite
	@$(BIN)/python tools/report.py runs/nano_sora_cpu
	@echo
	@echo "  GIF          runs/nano_sora_cpu/samples/demo/compare.gif   (held-out clips above, generated below)"
	@echo "  strip        runs/nano_sora_cpu/samples/demo/compare.png"
	@echo "  report       runs/nano_sora_cpu/report/index.html"
	@echo "  TensorBoard  $(BIN)/tensorboard --logdir runs/nano_sora_cpu/tb"
	@echo "Next:"
	@echo "  $(BIN)/python tools/sample.py runs/nano_sora_cpu --label 7 sampler=heun sampler.steps=20 --out runs/sevens"
	@echo "  $(BIN)/python tools/train.py projects/nano_sora_cpu.yaml backbone=dit_factorized --out runs/factorized"
	@echo "  $(BIN)/python tools/train.py projects/example_idea/idea.yaml"

# One thread per test process: two processes of two threads each slow each other tenfold.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

test: setup     ## the test suite (about 7 minutes on 2 cores)
	@$(PYTEST)

test-quick: setup ## the fastest tests only: configuration, registry, mathematics
	@$(PYTEST) tests/config tests/diffusion tests/test_registry.py tests/test_random.py

test-all: setup ## the slow tests as well (hours; what takes how long: CONTRIBUTING.md)
	@$(PYTEST) -m "slow or not slow"

setup: $(VENV)/.installed
install: setup
install-dev: setup

$(VENV)/.installed: setup.cfg pyproject.toml requirements/cpu.txt
	@echo "Installing vidiff into $(VENV) (about a minute; pip is quiet meanwhile) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(CONSTRAINT) -e ".[dev]"
	@touch $@
	@echo "Installed."

train: setup    ## train the reference configuration (PROJECT=projects/nano_sora.yaml for the large one)
	@$(BIN)/python tools/train.py $(PROJECT)

train-small: setup ## the same with batch 16, in a run folder of its own
	@$(BIN)/python tools/train.py $(PROJECT) train.batch_size=16 --out $(RUN)_small

train-debug: setup ## twenty steps with batch 8
	@$(BIN)/python tools/train.py $(PROJECT) train.batch_size=8 train.steps=20 schedule.warmup_steps=0 --out $(RUN)_debug

inference: setup ## sample the trained run (RUN=runs/..., CKPT=path for another checkpoint)
	@$(BIN)/python tools/sample.py $(or $(CKPT),$(RUN))

inference-heun: setup ## the same with the Heun sampler
	@$(BIN)/python tools/sample.py $(or $(CKPT),$(RUN)) sampler.name=heun

lint: setup     ## ruff
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: setup   ## ruff, writing
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

check-gpu: setup ## what torch sees
	@$(BIN)/python -c "import torch; print('torch', torch.__version__, '| cuda', torch.cuda.is_available(), '|', torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu only')"

clean:          ## caches
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis; find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean ## caches and the environment (never your runs)
	rm -rf $(VENV)
