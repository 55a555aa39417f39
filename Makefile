# `make image` and `make test` install what is missing and need nothing else.
OUTPUT ?= x86.img
CHANNEL ?= debian-core/13/edge
STORE ?=
BIN := .venv/bin

.PHONY: help image up down install install-test check lint test test-all benchmark lock clean

help:
	@sed -n 's/^## //p' Makefile

## make image [OUTPUT=x86.img] [STORE=URL]  build, sign, publish, assemble, boot-test and release an image
image: install
	$(BIN)/coreimage $(if $(STORE),--store $(STORE)) build $(CHANNEL) --output $(OUTPUT) --force

## make up [PROJECT=FILE]                    Prefect, S3, worker and deployments on this machine; prints the UI's address
up: install
	$(BIN)/coreimage $(if $(PROJECT),--project $(PROJECT)) up

## make down                                end what `make up` started; the data stays
down: install
	$(BIN)/coreimage down

## make test                                everything that must pass
test: install-test lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

## make check                               lint, types, layering, unit tests
check: install-test lint
	$(BIN)/pytest -n 2 --dist worksteal --hypothesis-profile=check tests/unit

## make test-all [ONLY="NAME …"]             the long campaigns too, in parts that resume; docs/campaigns.md records them
test-all: install-test lint
	$(BIN)/python -m tests.campaigns $(ONLY)

## make benchmark [ONLY="NAME …"]            measure, and refresh the pages of docs/performance/
benchmark: install-test
	$(BIN)/python -m tests.benchmarks $(ONLY)

## make lock                                refresh the lock files from pyproject.toml (needs uv)
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    pyproject.toml --extra test -c requirements.lock -o requirements-test.lock

install:
	@infra/install

install-test:
	@infra/install test

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv var .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
