# Two commands do everything: `make demo` and `make test`. Each makes .venv and installs what it needs.

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-compile
# On all cores, where pip would use one; templates that some packages hold do not compile.
COMPILE = $(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null 2>&1 || true

# Tests run in three processes, each computing on one thread: on two cores one computes while another waits for a child.
# All tests of a file run in one of them, which makes once what they share.
# What pytest rewrites is kept, also where the environment says otherwise: all of them would compile it anew each time.
WORKERS ?= 3
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Tests of prep and of sharing fork for files they read, and a fork copies a table of all pages: what has been trained
# before makes it several times slower, so they have processes of their own; memory in large pages makes the table short.
FORKING = tests/prep tests/sharing
FORKING_PYTEST = GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONMALLOC=malloc $(PYTEST)

.PHONY: demo test quick faults lint types wheel check bench bench-quick pictures clean

demo: .venv/demo.stamp
	$(BIN)/prep build imdb
	$(BIN)/train run --cache cache/imdb --strategy tight --lr 1e-4 --max-steps 40 --eval-rows 400

test: .venv/dev.stamp
	$(FORKING_PYTEST) $(FORKING)
	$(PYTEST) $(addprefix --ignore ,$(FORKING))

# The unit tests alone, in a minute: what starts a process, trains a model or draws is marked slow, and left out.
quick: WORKERS = 2
quick: .venv/dev.stamp
	$(PYTEST) -m "not slow and not faults"

# The attacks of docs/safety.md in full, with their counts: about twenty minutes on two cores. Most are in a few files.
faults: .venv/dev.stamp
	$(PYTEST) --dist worksteal -m faults -rP --durations=0 --durations-min=10

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp
	$(BIN)/mypy

# Both commands from a built wheel, in a folder of its own.
wheel: .venv/dev.stamp
	$(BIN)/python tests/check_wheel.py

check: test lint types wheel

# Every stage beside its peers; a full run wants a quiet machine and some hours, and is kept in benchmarks/results.
STAGES = prepare executors plans utilization feed training ranks predict versus_fixed meetings quality

bench: .venv/bench.stamp
	for stage in $(STAGES); do $(BIN)/python -m benchmarks.$$stage || exit 1; done

bench-quick: .venv/bench.stamp
	for stage in $(STAGES); do $(BIN)/python -m benchmarks.$$stage --quick || exit 1; done

# The picture that the README shows, of all the packaged reviews.
pictures: .venv/dev.stamp
	$(BIN)/prep build imdb --name reviews --out build --holdout 0 --quiet
	$(BIN)/prep report build/reviews --out build/reviews.html --png build/pictures
	mkdir -p docs/pictures
	cp build/pictures/batches.png build/pictures/batches-dark.png docs/pictures/

.venv/demo.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable '.[demo]'
	$(COMPILE)
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable '.[dev]'
	$(COMPILE)
	touch $@

.venv/bench.stamp: pyproject.toml constraints.txt benchmarks/peers.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP_INSTALL) --editable '.[bench]'
	$(COMPILE)
	rm -rf .peers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .peers -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf .venv .peers build dist *.egg-info
