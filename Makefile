.DEFAULT_GOAL := help
.PHONY: help setup run demo test check format generate bench lock clean

python := .venv/bin/python

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything in it (quick when there is nothing to do)
	@scripts/setup

run: setup ## Start the server (ARGS="--port 9000" passes options on)
	@scripts/setup-system server
	@exec .venv/bin/retinue serve $(ARGS)

demo: setup ## Show a whole journey on real files (ARGS="--team", "--operation"; "--crash" kills workers)
	@scripts/setup-system server
	@exec .venv/bin/retinue demo $(ARGS)

test: setup ## Run the whole test suite (ARGS="tests/ledger -k append" runs a part)
	@scripts/setup-system
	@scripts/setup-s3
	@$(python) -m pytest -p tests.plugins.no_skips $(ARGS)

check: setup ## Check formatting, lint, types, import contracts, locks and generated files
	@scripts/check

format: setup ## Format the code and mend what the linter can mend
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format --quiet .

generate: setup ## Rewrite the generated files
	@$(python) -m scripts.check_generated --write

bench: setup ## Measure against the floors and print the table (ARGS="--only NAME" for a part, "--quick" for a look)
	@exec $(python) -m bench $(ARGS)

lock: setup ## Rewrite the locks (ARGS="--upgrade" takes the newest versions that fit)
	@scripts/lock $(ARGS)

clean: ## Remove .venv and everything that tools have left here
	rm -rf .venv .venv-s3 .setup.lock .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks .schemathesis build dist
	find src tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
