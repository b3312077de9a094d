# Every target does its own set-up; all that it needs is Python 3.11 or later.
#   make demo        cluster handwritten digits, draw new ones
#   make swing-up    swing a pendulum up from camera pictures
#   make recipe      the same and other tasks by one recipe: TASK=point-mass
#   make test        the default tests
#   make ci          everything that continuous integration runs
#   make release     build a wheel and a source archive, and try them out
# PYTHON=python3.12 chooses another Python, VENV=path another environment, and
# PRECISIONS=float32 one of the two that the default tests run in.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PRECISIONS ?= float32 float64
PYTEST_ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := MPLBACKEND=Agg $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
# What takes longest begins first, so that no worker waits for it at the end; and nascar,
# which compiles what recurrent needs later.
LONG := $(patsubst %,tutorials/%.py,recurrent nascar oscillator swing_up)
# What takes longer to compile than to run.
SHORT := choosing digits few_labels nascar recurrent spikes study swing_up
NOTEBOOKS := $(patsubst tutorials/%.py,docs/tutorials/%.ipynb,\
	$(LONG) $(filter-out $(LONG),$(shell grep -ls '^\# %%' tutorials/*.py)))
BENCHMARKS := $(sort $(wildcard benchmarks/bench_*.py))

# The tests compile many programs and run each a few times: without these, XLA takes up
# to four times as long. Slow tests too take longer to compile than to run.
# The tutorials run as a user's programs do: with the two that cost no speed, and at the
# level below the highest where little is left to run.
# The preset computes wrong numbers with jax 0.12, which does not know the emitters.
OLD = --xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE
QUICK = "$(OLD)" --xla_cpu_parallel_codegen_split_count=1 \
	--xla_backend_optimization_level=0
LIGHT = $$(grep -o '[^ ]*\(emitters\|split\)[^ ]*' $(READY)/quick | xargs) $(LEVEL)
QUICKLY = [ $$\# -eq 0 ] || export XLA_FLAGS="$$* $$XLA_FLAGS"

export SDL_VIDEODRIVER ?= dummy

# JAX's batched triangular solves wait for threads of the pool that they run in: with
# few threads, two at once can wait for each other for ever. One thread never waits.
test test-slow explore demo swing-up recipe tutorials docs: export NPROC ?= 1
# Two tests at a time have a processor each, and no use for threads of LAPACK.
test test-slow explore tutorials docs: export OPENBLAS_NUM_THREADS ?= 1

.DELETE_ON_ERROR:
.PHONY: demo swing-up recipe test test-slow explore lint format types tutorials docs bench \
	bench-compiled release ci clean
.SECONDARY:

demo: $(READY)/tutorials
	$(BIN)/python tutorials/digits_demo.py

swing-up: $(READY)/tutorials
	$(BIN)/python tutorials/control_demo.py pendulum

TASK ?= pendulum
recipe: $(READY)/tutorials
	$(BIN)/python tutorials/control_demo.py $(TASK)

# Once for each precision, as nothing of one may be left over for the other.
test: $(READY)/tests $(READY)/quick
	@status=0; set -- $$(cat $(READY)/quick); $(QUICKLY); \
	for precision in $(PRECISIONS); do \
		case $$precision in float32) mark="not x64";; float64) mark=x64;; \
		*) echo "PRECISIONS: found $$precision; accepted: float32 float64."; exit 2;; \
		esac; (set -x; \
		$(PYTEST) -m "not slow and $$mark" $(PYTEST_ARGS)) || status=1; \
	done; exit $$status

# pytest's exit status 5 means that no test was selected: a repository may have none.
test-slow: $(READY)/tests $(READY)/quick
	@set -- $$(cat $(READY)/quick); $(QUICKLY); set -x; \
	$(PYTEST) -m slow --durations=10 $(PYTEST_ARGS) || [ $$? -eq 5 ]

# Programs that nobody wrote, others each time: EXAMPLES of them by each test.
EXAMPLES ?= 100
explore: $(READY)/tests $(READY)/quick
	@set -- $$(cat $(READY)/quick); $(QUICKLY); set -x; \
	EXAMPLES=$(EXAMPLES) $(PYTEST) -m x64 tests/property $(PYTEST_ARGS)

lint: $(READY)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/house_rules.py

format: $(READY)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)/dev
	$(BIN)/mypy

# A notebook is a file in tutorials/ with "# %%" cells, which begins with its title: the
# licence above it is left out. Each is executed once, here, and the documentation
# renders the result, warnings too. Figures are the notebook's own, whatever backend the
# caller has, and so is what other packages keep: ArviZ 0.x fails if it is imported
# twice at once on a new day. What is compiled is kept for all of them: starts and
# posteriors of the switching system of nascar are those of recurrent, too.
tutorials: $(NOTEBOOKS)
	@echo "Tutorials executed: $(words $^)"

$(SHORT:%=docs/tutorials/%.ipynb): LEVEL = --xla_backend_optimization_level=1
docs/tutorials/%.ipynb: tutorials/%.py $(READY)/tutorials $(READY)/quick
	@mkdir -p $(@D)
	sed '1,/^$$/d' $< | env -u MPLBACKEND XLA_FLAGS="$(LIGHT) $$XLA_FLAGS" \
		JAX_COMPILATION_CACHE_DIR=$${JAX_COMPILATION_CACHE_DIR:-$(CURDIR)/.cache/tutorials} \
		JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
		PYTHONSTARTUP=$(CURDIR)/tools/whole_entries.py \
		XDG_CACHE_HOME=$(CURDIR)/.cache/others/$* \
		$(BIN)/jupytext \
		--from py:percent --to ipynb --set-kernel python3 --execute \
		--update-metadata '{"mystnb": {"output_stderr": "show"}}' \
		--run-path tutorials --output $@ -

# Pages are executed where they are rendered (docs/conf.py), and their programs are
# compiled as those of the tests are.
docs: $(READY)/docs $(READY)/quick $(NOTEBOOKS)
	@set -- $$(cat $(READY)/quick); $(QUICKLY); set -x; \
	$(BIN)/sphinx-build -j $(WORKERS) -q -W --keep-going -b html docs docs/_build/html

# Memory that glibc hands back to the system after every step is paid for in the next.
# Only the first arena keeps blocks of more than 64 MiB.
# LAPACK starts threads for a matrix of 32 rows, which wait for each other more than
# they work, and slow all packages.
bench bench-compiled: export MALLOC_MMAP_THRESHOLD_ ?= 4294967296
bench bench-compiled: export MALLOC_TRIM_THRESHOLD_ ?= 4294967296
bench bench-compiled: export MALLOC_ARENA_MAX ?= 1
bench bench-compiled: export OPENBLAS_NUM_THREADS ?= 1
# As one thread is what the compiled kernel has, so have the others.
bench bench-compiled: export NPROC ?= 1
bench: $(READY)/bench
	@for script in $(BENCHMARKS); do \
		echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-compiled: $(READY)/bench
	$(BIN)/python benchmarks/bench_compiled.py

# Builds what a release consists of and uses it as a stranger would, without the
# repository. It uploads nothing: docs/releasing.md says what else there is to do.
release: $(READY)/release
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) tools/check_release.py dist/*

ci:
	bash .ci/run

clean:
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache build dist
	rm -rf docs/_build docs/generated docs/tutorials/*.ipynb

# XLA stops at a flag that it does not know, and releases differ. Any extra brings XLA.
$(READY)/quick: $(READY)/dev
	@for flag in $(QUICK); do XLA_FLAGS="$$flag" $(BIN)/python -c \
		"import jax; jax.devices()" >/dev/null 2>&1 && echo "$$flag"; done >$@ || true

# Set-up: one environment, and one stamp for each extra that is installed in it.
$(READY)/%: $(READY)/environment pyproject.toml numpyro_svae/version.py
	@echo "Installing numpyro_svae[$*] in $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[$*]"
	@touch $@

$(READY)/environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(READY)
	@touch $@
