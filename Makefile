# The whole developer interface; `make` lists the targets. Each target sets up what it needs.
# A distribution builds its Python with profile-guided optimization, a version manager usually does not, and
# the service is a quarter slower on such a one. So the system's own is taken where it will do.
SUITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(or $(shell for python in /usr/bin/python3 python3; do \
	$$python -c '$(SUITS)' 2> /dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
STAMP := .venv/.set-up

.DEFAULT_GOAL := help
.PHONY: help setup run demo test clients races bounds check format bench lock clean

help:  ## lists the targets
	@sed -n -E 's/^([a-z]+):[^#]*## (.*)$$/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		while IFS='|' read -r target told; do printf '%-13s %s\n' "$$target" "$$told"; done

setup: $(STAMP)  ## makes the virtual environment in .venv, with pinned dependencies

$(STAMP): requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: setup  ## serves a demo on an embedded PostgreSQL; make run ARGS="--port 8081" takes another port
	$(BIN)/upsert-svc serve --demo $(ARGS)

demo: setup  ## loads a real file three times through the HTTP endpoint
	$(BIN)/python -m examples.airports

# each worker has a server, and so a core, of its own; idle ones take tests over from the others
test: setup  ## runs the tests, without storms and clients, on a real PostgreSQL
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

clients: setup  ## runs published clients against the service
	$(BIN)/python -m pytest -m clients tests/clients

races: setup  ## runs the storms: many concurrent writers, and workers that are killed
	$(BIN)/python -m pytest -m storm tests/races

bounds: setup  ## runs attacks, floods and faults, and says what they took; under five minutes
	$(BIN)/python -m pytest -m bounds -s tests/bounds

check: setup  ## runs ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## formats the code, and fixes what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## runs the benchmark; make bench ARGS="--help" lists its options
	$(BIN)/python -m bench $(ARGS)

lock:  ## makes the lock files anew, with uv
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --all-extras --constraint requirements.lock --output-file requirements-dev.lock
	for client in tests/clients/*/requirements.in; do (cd $${client%/*} && \
		uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock) || exit; done

clean:  ## removes what make and the tools have made, but no data
	rm -rf .venv .bench tests/clients/.installed .mypy_cache .ruff_cache .pytest_cache
