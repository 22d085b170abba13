PYTHON ?= python3
VENV := .venv/bin

.PHONY: env test lint demo
env:
	$(PYTHON) scripts/bootstrap.py

demo: env
	$(VENV)/cyxwiz demo

test: env
	$(VENV)/python -m pytest -n 2

lint: env
	$(VENV)/ruff check .
	$(VENV)/mypy
