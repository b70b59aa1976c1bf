# The one list of commands. Each sets itself up: Python packages from requirements.lock
# into .venv, and missing system packages through apt, where that is allowed.

PYTHON_DIRS := accounts bench chaos controlpanel images servers sharing tests tools manage.py
# More than there are cores, as a test that boots a server or asks a browser often waits.
PYTEST_WORKERS ?= $(shell echo $$(($$(nproc) + 2)))
SPREAD := -n $(PYTEST_WORKERS) --maxprocesses 4 --dist worksteal
# Settings as in production, for the checks.
CHECK_ENV := SECRET_KEY=only-for-the-checks-0123456789-abcdefghij-klmnopqrstuvwxyz \
	ALLOWED_HOSTS=panel.example.com EMAIL_HOST=mail.example.com DATA_DIR=var/check \
	DEBUG=false
WITH_POSTGRES := python -m tools.postgres --database check var/test-postgres

# PORT= and DATA_DIR= given to make reach the demo.
export PORT DATA_DIR
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
# Else each of the many processes of a run would compile the panel for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-reset bench chaos test lint types check unit browser test-pg15 \
	lock set-up demo-packages chaos-packages test-packages

help:
	@echo "make demo        run the panel with demo data on http://127.0.0.1:8000"
	@echo "                 (PORT=8001 and DATA_DIR=folder change these)"
	@echo "make demo-reset  throw the demo's data away"
	@echo "make test        lint types check, and every test with its coverage"
	@echo "make unit        the tests without a browser and without QEMU"
	@echo "make browser     the browser's tests (ARGS= for pytest, here and above)"
	@echo "make test-pg15   the tests on PostgreSQL 15"
	@echo "make bench       measure pages, servers and memory (ARGS=\"servers\" for one)"
	@echo "make chaos       kill its processes 200 times while it is used, and worse"
	@echo "                 (ARGS=\"--kills 20 --seed 1\" for a short one)"
	@echo "make lock        resolve requirements.lock anew from pyproject.toml"

demo: set-up demo-packages
	python -m tools.demo

demo-reset: set-up
	python -m tools.demo --reset

bench: set-up demo-packages
	python -m bench $(ARGS)

chaos: set-up chaos-packages
	python -m chaos $(ARGS)

# Counting branches makes a test take half as long again. What adds nothing to the
# count (the browser, stories, fuzzing) is marked no_cover, and runs by itself:
# pytest-cov, told to leave a test out, counts too little in those that follow.
# Without a Chromium the browser's tests fail here; elsewhere they are skipped.
test: export REQUIRE_BROWSER ?= true
test: set-up test-packages lint types check
	pytest --create-db --reuse-db --cov --cov-report=term $(SPREAD) -m "not no_cover" $(ARGS)
	pytest --reuse-db $(SPREAD) -m no_cover $(ARGS)

lint: set-up
	ruff check .
	ruff format --check .
	djade --check $$(find templates -name "*.html")

types: set-up
	DATABASE_URL=$${DATABASE_URL:-postgresql://app@/panel} \
		$(CHECK_ENV) mypy $(wildcard $(PYTHON_DIRS))

check: set-up
	$(WITH_POSTGRES) env $(CHECK_ENV) python manage.py check --deploy --fail-level WARNING
	$(WITH_POSTGRES) env $(CHECK_ENV) python manage.py makemigrations --check --dry-run

unit: set-up
	pytest -m "not browser and not qemu" $(ARGS)

browser: set-up test-packages
	pytest -m browser $(ARGS)

test-pg15: set-up test-packages
	PG_BIN=/usr/lib/postgresql/15/bin \
		pytest $(SPREAD) $(ARGS)

lock:
	tools/lock

set-up:
	@tools/bootstrap

# Without them the panel starts all the same and says what is missing.
demo-packages:
	@tools/system-packages demo || true

# Without libfaketime the clock does not jump.
chaos-packages:
	@tools/system-packages chaos || true

test-packages:
	@tools/system-packages test || true
