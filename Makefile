# Every target sets up what it needs by itself, in .venv; nothing outside this folder is touched.
# Without GNU make (Windows): make.bat, which has the same targets and variables.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_TEST := $(VENV)/.ready-test
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_USER := 0
unexport PYTHONPATH
unexport PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup doctor ready soak upgrade rollback lab app reproduce test check report share add verify notebooks \
	pages train-tiny clean

help: ## this list
	@echo "ocrlab: which settings should read my documents with Qwen2-VL, on this machine?"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is pinned into .venv; says which torch and why; TORCH_BUILD= cpu, cu126, cu130, default, an index
	@$(PYTHON) make.py setup

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) make.py setup

doctor: $(READY) ## what is wrong with this installation, and what to do about it
	@$(BIN)/python -m ocrlab doctor

ready: $(READY) ## is this machine ready? checks over a run's rows; fails below THRESHOLD=; RUN=
	@$(BIN)/python -m ocrlab ready $(if $(RUN),--run "$(RUN)") $(if $(THRESHOLD),--threshold "$(THRESHOLD)")

soak: $(READY) ## read pages for MINUTES=60: does memory grow, does a text change? PAGES= PRESET= RUN=
	@$(BIN)/python -m ocrlab soak $(if $(MINUTES),--minutes "$(MINUTES)") $(if $(PAGES),--pages "$(PAGES)") \
		$(if $(PRESET),--preset "$(PRESET)") $(if $(RUN),--run "$(RUN)")

upgrade: $(READY) ## try newer versions in a second environment, then offer to swap; NAMES= YES=1 TAKE=
	@$(BIN)/python -m ocrlab upgrade $(NAMES) $(if $(YES),--yes) $(if $(TAKE),--take "$(TAKE)")

rollback: $(READY) ## go back to the environment before the last upgrade
	@$(BIN)/python -m ocrlab rollback

lab: $(READY) ## explore in JupyterLab (this computer only)
	@$(BIN)/python -m ocrlab lab

app: $(READY) ## try pages and settings by hand, in the browser (this computer only); PRESET=
	@$(BIN)/python -m ocrlab app $(if $(PRESET),--preset "$(PRESET)")

reproduce: $(READY) ## run every notebook and build the site; PROFILE= MODEL= MINUTES= ONLY= RUN= PARAMS= ENGINE= ADDRESS=
	@$(BIN)/python -m ocrlab reproduce $(if $(PROFILE),--profile "$(PROFILE)") $(if $(MODEL),--model "$(MODEL)") \
		$(if $(ONLY),--only "$(ONLY)") $(if $(RUN),--run "$(RUN)") $(if $(PARAMS),--params "$(PARAMS)") \
		$(if $(ENGINE),--engine "$(ENGINE)") $(if $(ADDRESS),--address "$(ADDRESS)") \
		$(if $(MINUTES),--minutes "$(MINUTES)")

$(READY_TEST): $(READY)
	@$(PYTHON) make.py setup TEST=1

# One thread per process: the embedded reader gains nothing from two, and a busy neighbour cannot stall it.
JOBS ?= 2
test: export OMP_NUM_THREADS ?= 1
test: $(READY_TEST) ## all tests, and every notebook checked cell by cell with nbval; JOBS=2 processes
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder \
		--nbval-lax --nbval-cell-timeout=120 tests notebooks

check: $(READY_TEST) ## ruff and mypy
	@$(BIN)/python -m ruff check ocrlab data/recipes tests make.py notebooks
	@$(BIN)/python -m ruff format --check ocrlab data/recipes tests make.py
	@$(BIN)/python -m mypy

report: $(READY) ## build the site of RUN= again without running anything
	@$(BIN)/python -m ocrlab report "$(RUN)"

share: $(READY) ## RUN= as one zip without what names a person; WITH_IMAGES=folder TO=
	@$(BIN)/python -m ocrlab share "$(RUN)" $(if $(WITH_IMAGES),--with-images "$(WITH_IMAGES)") $(if $(TO),--to "$(TO)")

add: $(READY) ## check a shared RUN=file.zip and put it into results/; AS_NAME=
	@$(BIN)/python -m ocrlab add "$(RUN)" $(if $(AS_NAME),--as "$(AS_NAME)")

verify: $(READY) ## read a random tenth of the pages of RUN= again and compare the texts; SHARE= SEED= ONLY= PAGES=
	@$(BIN)/python -m ocrlab verify $(if $(RUN),"$(RUN)") $(if $(SHARE),--share "$(SHARE)") $(if $(SEED),--seed "$(SEED)") \
		$(if $(ONLY),--only "$(ONLY)") $(if $(PAGES),--pages "$(PAGES)")

notebooks: $(READY) ## write the outputs that nbval compares again, after a change on purpose
	@$(BIN)/python -m ocrlab refresh

pages: $(READY_TEST) ## print our page sets again and compare them bit for bit (needs the fonts named in its message)
	@$(BIN)/python -m data.recipes.pages --check

train-tiny: $(READY_TEST) ## train the embedded reader again (hours; goes on where it stopped)
	@$(BIN)/python -m data.recipes.train

clean: ## remove build/ and caches; results/ and .venv stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
