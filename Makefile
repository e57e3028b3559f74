# Every target makes .venv on demand: uv, installed into the venv by pip, installs the locked versions.
# LOCKED=0 takes the newest releases that pyproject.toml admits.
PYTHON ?= python3
LOCKED ?= 1
BIN := .venv/bin
STAMP := .venv/.installed-$(LOCKED)
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test system lint types mypy pyright bench
help:    ## this list
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

demo: $(STAMP)   ## real watermarks against real attacks on real data: the table, and the page (runs/board.html)
	$(BIN)/assay suite quick

test: $(STAMP) system   ## every test, slow ones included
	$(BIN)/pytest -n 2 --dist loadgroup

system: $(STAMP)
	@tests/install-system-packages
	@$(BIN)/python -c "import pdqhash" 2>/dev/null || $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps pdqhash==0.2.8 || \
	  echo "pdqhash could not be built: the tests of pictures as works are skipped"

lint: $(STAMP)   ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, of tests and benchmarks too, and pyright
	@$(MAKE) --no-print-directory -j 2 mypy pyright

mypy: $(STAMP)
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks

pyright: $(STAMP)
	$(BIN)/pyright --threads 2

bench: $(STAMP)  ## speed, as ratios to named baselines; writes benchmarks/data
	$(BIN)/python benchmarks/all.py

$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	@if [ "$(LOCKED)" = 1 ]; then $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r requirements.lock && \
	  $(BIN)/uv pip install --python $(BIN)/python --no-deps -e . ; \
	else $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --upgrade -e ".[dev]" ; fi
	@rm -f .venv/.installed-* && touch $@
