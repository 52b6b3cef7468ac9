# One command each; every target sets up what it needs first. Details of a run: make -n TARGET.
#   make setup      virtual environment, Python packages, C core, test peers (deploy/setup.sh)
#   make demo       coordinator, three nodes, two Debian guests, live migrations; REPORT=FILE keeps the figures
#   make test       C units under sanitizers (addresses, then threads), then every Python test; T=path or PYTEST_ARGS=... narrows it
#   make check      linters, formatters, types, import contracts
#   make bench      every bench; make bench-NAME runs bench/NAME.py; QUICK=1 shortens bench-core; BENCH_ARGS=... are its options
PY          := .venv/bin/python
export PATH := $(CURDIR)/build/tools/bin:$(PATH)
T           ?= tests
PYTEST_ARGS ?=
REPORT      ?=
BENCH_ARGS  ?=
C_FILES      = $(shell find csrc tests -name '*.[ch]' -not -path '*/programs/*')
TIDY_FILES   = $(shell find csrc -name '*.c')
TIDY_FLAGS  := -std=gnu11 -D_GNU_SOURCE -Icsrc

.PHONY: setup build image demo test test-c test-tsan test-py test-root test-software check bench soak model litmus fuzz fresh clean

setup:
	@sh deploy/setup.sh

build: setup

# Guests of the tests and the demo boot from it. Without a mirror the tests that need it are skipped and say so.
image: setup
	@$(PY) -P -m wherry image build debian --if-missing || echo "image: not built; tests that boot Debian will be skipped"

demo: setup
	@$(PY) -P -m wherry demo $(if $(REPORT),--report $(REPORT))

test: setup image test-c test-tsan test-py

test-c: setup
	@$(MAKE) -s -C csrc test-c

test-tsan: setup
	@$(MAKE) -s -C csrc test-tsan

test-py: setup
	$(PY) -m pytest $(T) $(PYTEST_ARGS)

test-root: setup
	@[ "$$(id -u)" = 0 ] || { echo "test-root: needs root (network namespaces, TAP)"; exit 1; }
	$(PY) -m pytest $(T) -m root $(PYTEST_ARGS)

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	.venv/bin/clang-format --dry-run -Werror $(C_FILES)
	printf '%s\n' $(TIDY_FILES) | xargs -P 2 -n 4 sh -c '.venv/bin/clang-tidy --quiet "$$@" -- $(TIDY_FLAGS) 2> /dev/null' tidy

bench: $(patsubst bench/%.py,bench-%,$(filter-out %_peers.py,$(shell grep -l __main__ bench/*.py 2> /dev/null)))

bench-%: setup
	@sh deploy/tools.sh qemu-system || true
	@mkdir -p build/bench
	$(PY) -m bench.$* $(BENCH_ARGS)

# Longer runs of what `make test` does in short: hours of simulated faults, millions of random inputs.
soak: setup
	WHERRY_SOAK=1 $(PY) -m pytest tests/sim tests/unit/test_migration_enumeration.py tests/faults $(PYTEST_ARGS)

# The handover's states with more faults than `make test` allows (tests/model): minutes, and some 2 GB of memory.
model: setup
	WHERRY_MODEL=1 $(PY) -m pytest tests/model -s $(PYTEST_ARGS)

# Minutes of memory-ordering tests for each engine and number of harts.
litmus: setup
	WHERRY_LITMUS=$(or $(MINUTES),2) $(PY) -m pytest tests/guest/test_smp.py -k forbidden $(PYTEST_ARGS)

fuzz: setup
	WHERRY_FUZZ=1 $(PY) -m pytest tests/fuzz tests/prop tests/isa $(PYTEST_ARGS)

# A minimal Debian that has never seen this checkout: SUITE=bookworm or trixie, FRESH="demo test". Root only.
SUITE ?= trixie
FRESH ?= demo test
fresh:
	@sh deploy/fresh.sh $(SUITE) $(FRESH)

# gcc, Python's own tests, OpenSSL and stress-ng in Debian guests; builds an image of 200 MB first.
test-software: setup
	WHERRY_SOFTWARE=1 $(PY) -m pytest tests/guest/test_software.py $(PYTEST_ARGS)

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	$(MAKE) -s -C csrc clean
