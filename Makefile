.DEFAULT_GOAL := help
.PHONY: setup
setup: ## Make .venv with everything in it (quick when there is nothing to do)
	@scripts/setup
