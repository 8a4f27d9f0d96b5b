# The whole developer interface. Each target sets up what it needs.
# A distribution builds its Python with profile-guided optimization, a version manager usually does not, and
# the service is a quarter slower on such a one. So the system's own is taken where it will do.
SUITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(or $(shell for python in /usr/bin/python3 python3; do \
	$$python -c '$(SUITS)' 2> /dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
STAMP := .venv/.set-up

.PHONY: setup run demo test clients races check format bench lock schema clean

setup: $(STAMP)

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: setup
	$(BIN)/upsert-svc serve --demo

demo: setup
	$(BIN)/python -m examples.airports

# each worker has a server, and so a core, of its own; idle ones take tests over from the others
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

clients: setup
	$(BIN)/python -m pytest -m clients tests/clients

races: setup
	$(BIN)/python -m pytest -m storm tests/races

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m bench $(ARGS)

lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --all-extras --constraint requirements.lock --output-file requirements-dev.lock
	for client in tests/clients/*/requirements.in; do (cd $${client%/*} && \
		uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock) || exit; done

clean:
	rm -rf .venv .bench tests/clients/.installed .mypy_cache .ruff_cache .pytest_cache
