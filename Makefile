# Developer commands. Tools are configured in pyproject.toml; this file only calls them.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BROKER ?=
ARGS ?=
CH ?=
MINUTES ?= 20

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick chaos soak breaks lint fix bench bench-check bench-scale test-python test-rabbitmq up down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## the virtual environment, with taskq and everything that its development needs

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("taskq needs Python 3.11 or later, make PYTHON=... names another") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	$(PY) -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

demo: $(STAMP) ## the example, checked while it runs: embedded, or with BROKER=amqp://user:password@host/ on RabbitMQ
	$(PY) examples/demo.py $(if $(BROKER),--broker "$(BROKER)")

test: $(STAMP) ## every test but chaos, on a RabbitMQ and a PostgreSQL that are found or started; with Node.js and npm
	$(PY) -m pytest --ignore=tests/chaos -n 4 --dist worksteal $(ARGS)

quick: $(STAMP) ## what needs no server: units, contracts on memory and SQLite, properties
	$(PY) -m pytest --ignore=tests/chaos --ignore=tests/acceptance --ignore=tests/integration --ignore=tests/clients --without-services $(ARGS)

chaos: $(STAMP) ## kills, cuts, restarts: a row for each fault, with what became of the messages
	$(PY) -m pytest tests/chaos -n 3 --dist loadscope $(ARGS)

soak: $(STAMP) ## mixed load under faults for MINUTES (20), with a ledger; then three beats for half as long; then the model
	$(PY) -m tests.soak $(MINUTES) $(ARGS)
	TASKQ_TEST_SECONDS=$$(( $(MINUTES) * 30 )) $(PY) -m pytest tests/chaos/test_beat.py --timeout 7200 -q -s
	TASKQ_TEST_EXAMPLES=$$(( $(MINUTES) * 60 )) $(PY) -m pytest tests/property/test_model.py --timeout 7200 -q

breaks: $(STAMP) ## breaks the code on purpose, in each way of tests/chaos/breaks: fails if the tests do not notice
	$(PY) -m tests.breaks $(ARGS)

lint: $(STAMP) ## ruff format --check, ruff, mypy --strict, and what both type checkers say of users' code
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m mypy --strict tests/typing
	$(PY) -m pyright --pythonpath $(PY)

fix: $(STAMP) ## ruff format, ruff --fix
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(STAMP) ## the benchmarks, every peer beside us; a table and data in benchmarks/results
	$(PY) -m pip install --quiet --group bench
	$(PY) -m tests.services run $(PY) -m benchmarks $(ARGS)

bench-check: $(STAMP) ## fails if taskq is slower than benchmarks/baseline.json by more than noise; 5 minutes; needs valgrind
	$(PY) -m pip install --quiet --group bench
	$(PY) -m benchmarks.check $(ARGS)

bench-scale: $(STAMP) ## how cost grows with processes, backlog, payload and queues; plots in docs/plots; 15 minutes
	$(PY) -m pip install --quiet --group bench
	$(PY) -m benchmarks.scale $(ARGS)

test-python: ## the quick tests on every Python from 3.11 on that is found here
	$(PYTHON) -m tests.pythons

test-rabbitmq: $(STAMP) ## the broker's contract and chaos on another RabbitMQ, that of CH=DIR (docs/operations.md)
	@test -n "$(CH)" || { echo "make test-rabbitmq CH=DIR; DIR by: debootstrap --variant=minbase --include=rabbitmq-server sid DIR" >&2; exit 2; }
	$(PY) -m tests.another_rabbit "$(CH)" $(PY) -m pytest tests/contract/test_broker_rabbitmq.py tests/chaos -n 2 --dist loadscope $(ARGS)

up: $(STAMP) ## RabbitMQ and PostgreSQL for development, on fixed ports; prints what to set
	@$(PY) -m tests.services up

down: $(STAMP) ## end them, with their data
	@$(PY) -m tests.services down

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
