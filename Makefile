# Two commands are enough: `make demo` trains and reports, `make test` checks; `make slow` checks what takes long.
.PHONY: help demo test slow check docs docs-serve reference gpu model picture clean

SEED ?= 0
RECIPE ?= toy_cpu toy_gap
TESTS ?=

help:
	@echo "make demo    train the embedded reasoner to choose when to think, and report (runs/demo); SEED=1, RECIPE=my.toml"
	@echo "make test    lint, types and tests; TESTS=tests/test_objective.py for some of them"
	@echo "make slow    the tests that take long: kills and other faults, whole programs, what the pages say"
	@echo "make check   lint and types alone"
	@echo "make docs    the documentation as a site in build/site; make docs-serve shows it while it is written"
	@echo "make reference  the pages of docs/reference that follow from the code"
	@echo "make gpu     tests, demo and benchmarks of a GPU in at most nine minutes (docs/explanation/performance.md)"
	@echo "make model   make the embedded reasoners again from nothing (about an hour)"
	@echo "make picture the pictures of README and docs/tutorials/demo.md, of the run in runs/demo"
	@echo "make clean   remove the environment and caches; runs/ stays"

demo:
	@scripts/setup.sh
	@.venv/bin/adaptthink demo --seed $(SEED) --recipe $(RECIPE) --output runs/demo --clean --json runs/demo/summary.json

check:
	@scripts/setup.sh dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

test: check
	.venv/bin/python -m pytest -n auto $(TESTS)

slow:
	@scripts/setup.sh dev
	.venv/bin/python -m pytest -n auto --dist worksteal --slow -m slow $(TESTS)

docs:
	@scripts/setup_docs.sh
	@.venv-docs/bin/python scripts/build_docs.py

reference:
	@scripts/setup.sh dev
	.venv/bin/python scripts/make_reference.py

docs-serve:
	@scripts/setup_docs.sh
	@.venv-docs/bin/python scripts/build_docs.py serve

gpu:
	@scripts/gpu_check.sh

model:
	@scripts/setup.sh
	.venv/bin/python -m adaptthink.models.make_tiny src/adaptthink/models/tiny
	.venv/bin/python -m adaptthink.models.make_tiny src/adaptthink/models/tiny_long --base tiny_long

picture:
	@scripts/setup_browser.sh
	.venv/bin/python scripts/screenshot.py runs/demo/report.html docs/assets/demo-report.png
	.venv/bin/adaptthink report runs/demo --figures runs/demo/figures
	cp runs/demo/figures/accuracy-and-tokens.png docs/assets/accuracy-tokens.png

clean:
	rm -rf .venv .ruff_cache .pytest_cache
