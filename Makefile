# Two commands do everything: make quickstart, make test. All targets install first what they need.
#
#   make quickstart   searches, confirms and reports the study of the README, in minutes
#   make test         checks and all tests; needs chromium (apt-get install chromium) and nothing else that runs already
#   make test-fast    the everyday tests, in under three minutes on two cores: no browser, database server or Ray
#   make check        format, lint, types, and what bandit finds
#   make docs         the documentation's site, in build/docs/site
#   make audit        pinned versions against known advisories; needs the network
#   make smoke        the smallest study
#   make picture      the README's picture, from the last quickstart
#   make clean        removes the environment and builds
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-fast check browser audit docs smoke picture clean

quickstart: $(VENV)/.installed
	$(KEEP) $(BIN)/shapetune launch quickstart

# Bytecode is kept, whatever the shell says: what starts processes would have each of them compile everything again.
KEEP := PYTHONDONTWRITEBYTECODE=

# Files are handed out whole, the slow ones first: no process is left with one of them at the end.
PYTEST := $(KEEP) $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.tested check browser
	$(PYTEST)

test-fast: $(VENV)/.tested
	$(PYTEST) -m "not slow"

check: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/build.py docs/generate.py
	$(BIN)/mypy examples
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive shaping search_spaces pipeline shapetune benchmarks \
		examples

# Debian's browser, which opens the pages in the tests; where it cannot be installed, they say how to go without.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends chromium >/dev/null; } \
		|| echo "no chromium, which the tests of the pages need: apt-get install chromium"

# Holds the pinned versions against the advisories of the Python Package Index; needs the network, so no test runs it.
# Strict: where the index knows nothing of a package, that is an error, and not a clean bill of health.
audit:
	test -x $(VENV)/audit/bin/pip-audit || $(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

# The documentation's site, in build/docs/site; a warning is an error. Nothing is fetched, by the build or by the pages.
docs: $(VENV)/.tested
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/build.py

smoke: $(VENV)/.installed
	$(KEEP) $(BIN)/shapetune launch smoke

# Modules are compiled when they are first imported: compiling all that a package brings takes longer than installing it.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# A pip that chooses among hundreds of packages in half the time of the one that comes with Python 3.11.
# Torch next and alone: with it in place, nothing else pulls in another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) pip
	$(INSTALL) torch
	$(INSTALL) -e ".[instruction]"
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(INSTALL) -e ".[test]"
	touch $@

# The README's picture, from the last quickstart; needs Debian's chromium.
picture: $(VENV)/.installed
	$(BIN)/shapetune report studies/quickstart
	chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
		--disable-component-update --disable-sync --hide-scrollbars --window-size=1200,2410 \
		--virtual-time-budget=8000 --screenshot=docs/quickstart-report.png file://$(CURDIR)/studies/quickstart/report.html

clean:
	rm -rf $(VENV) dist build
