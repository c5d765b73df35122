# Every target does the set-up it needs, and is quick when that is done already.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Tests wait more than they compute: two processes of them fill two cores, and leave air for those that time something.
JOBS ?= 2

bin := $(VENV)/bin
python := $(bin)/python
installed := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# Tests start hundreds of programs: each would compile poolkit anew. Git ignores the bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 picks the interpreter of a new $(VENV); ARGS=… goes to demo, test, bench, chaos and soak."
	@echo "  PYTHONS=3.12 has package look at that one alone."

.PHONY: install
install: $(installed) ## Make .venv with poolkit and all that its development needs
	@echo "$(VENV) is ready."

# A venv without pip is one whose making broke off half-way: made anew.
$(installed): setup.cfg setup.py
	@$(python) -m pip --version >/dev/null 2>&1 || { \
		echo "Making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing poolkit and its development tools into $(VENV)"
	@$(python) -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[dev]'
	@touch $@

.PHONY: demo
demo: $(installed) ## Serve 500 concurrent requests three ways, and compare
	@$(bin)/poolkit demo $(ARGS)

# A test that hangs ends its process, and is tried again in another one: once is enough.
.PHONY: test
test: $(installed) $(VENV)/.browser $(VENV)/.pgbouncer ## Run the tests
	$(python) -m pytest --numprocesses=$(JOBS) --dist=loadfile --max-worker-restart=1 $(ARGS)

.PHONY: fuzz
fuzz: $(installed) ## Run the generated tests with new and many more examples
	HYPOTHESIS_PROFILE=fuzz $(python) -m pytest --timeout=1800 -o faulthandler_timeout=2000 tests/core/models tests/fuzz $(ARGS)

# Where there is no browser, and none can be had, the tests that need one are skipped, and say so.
$(VENV)/.browser: $(installed)
	@.ci/find-browser >/dev/null || .ci/install-browser || true
	@touch $@

# The same for PgBouncer: what needs it is left out.
$(VENV)/.pgbouncer: $(installed)
	@.ci/find-pgbouncer >/dev/null || .ci/install-pgbouncer || true
	@touch $@

.PHONY: screenshots
screenshots: $(installed) $(VENV)/.browser ## Take the pictures of the dashboard that the documentation shows
	@mkdir -p docs/images
	POOLKIT_SCREENSHOTS=docs/images $(python) -m pytest -q tests/hosts/test_dashboard_browser.py -k "load or exhausted"

# A name on the PATH may be a shim that doesn't run: only those that execute count.
.PHONY: test-all
test-all: ## Run the tests on Python 3.10 to 3.13, those that are found
	@found=; failed=; \
	for version in 3.10 3.11 3.12 3.13; do \
		python="$$(.ci/find-python $$version)" || { echo "Python $$version: not found, skipped"; continue; }; \
		found="$$found $$version"; \
		echo "Python $$version"; \
		$(MAKE) test VENV=.venv-$$version PYTHON="$$python" || failed="$$failed $$version"; \
	done; \
	test -n "$$found" || { echo "No Python 3.10 to 3.13 was found."; exit 1; }; \
	if test -n "$$failed"; then echo "Failed on Python$$failed; ran on$$found"; exit 1; fi; \
	echo "Passed on Python$$found"

.PHONY: lint
lint: $(installed) ## Check style, types and the layers of the house
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(bin)/lint-imports

.PHONY: format
format: $(installed) ## Format the code, and fix what can be fixed
	$(python) -m ruff check --fix-only .
	$(python) -m ruff format .

.PHONY: bench
bench: $(installed) ## Measure poolkit against its peers, within 15 minutes
	$(python) -m benchmarks $(ARGS)

.PHONY: bench-quick
bench-quick: $(installed) ## The same within 2 minutes, rougher
	$(python) -m benchmarks --quick $(ARGS)

.PHONY: package
package: ## Build it, and install it on each Python with each extra
	@$(PYTHON) .ci/package.py

.PHONY: chaos
chaos: $(installed) $(VENV)/.pgbouncer ## Play faults on all pools for 15 minutes, and check what is promised
	$(python) -m tests.faults $(ARGS)

.PHONY: soak
soak: $(installed) ## Ten million operations over all pools with a fault a second: nothing may grow
	$(python) -m tests.faults.soak $(ARGS)

.PHONY: docs
docs: $(VENV)/.installed-docs ## Build the documentation into docs/_build/html
	$(python) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

$(VENV)/.installed-docs: $(installed)
	@$(python) -m pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[docs]'
	@touch $@

.PHONY: clean
clean: ## Remove everything that these targets made
	rm -rf .venv .venv-3.* build dist *.egg-info docs/_build benchmarks/results tests/faults/results
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find poolkit tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
