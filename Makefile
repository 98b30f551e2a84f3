# Everything happens in .venv, which these targets make. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
CONFORMANCE ?=
LOWEST ?=
SANITIZE ?=
TORCH ?= 1

KERNELS := $(wildcard src/corepress/kernels/c/*) tools/build_kernels.py

.PHONY: kernels demo test test-all test-aarch64 test-pythons try-sdist sanitize wheels lowest lint bench bench-quick conformance fuzz schema docs site notebooks screens clean

# Each package also runs, on real images; `make demo TORCH=` does without PyTorch and this.
demo: .venv/core.stamp $(if $(TORCH),.venv/torch.stamp)
	$(BIN)/python tools/demo.py

# After a change in src/corepress/kernels/c.
kernels: .venv/dev.stamp
	$(BIN)/python tools/build_kernels.py

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS)

test-all: .venv/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) -m ""

# The tests of the kernels, under the sanitizers of addresses and of undefined behaviour. Needs gcc or clang.
sanitize: .venv/dev.stamp
	$(BIN)/python tools/build_kernels.py --sanitize build/sanitize/libcorepress.so
	COREPRESS_LIBRARY=$$PWD/build/sanitize/libcorepress.so ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($${CC:-cc} -print-file-name=libasan.so)" \
		$(BIN)/python -m pytest -q -n $(WORKERS) -p no:cacheprovider --ignore=tests/kernels/test_library.py $(SANITIZE) tests/kernels

# The tests of the kernels on an emulated ARM processor. Needs Debian's qemu-user.
test-aarch64: .venv/wheels.stamp
	tools/aarch64.sh

# The sdist and a wheel, installed in fresh environments, on every version of Python that the machine has.
test-pythons: .venv/wheels.stamp
	$(BIN)/python tools/pythons.py

# The sdist, in one fresh environment.
try-sdist: .venv/dev.stamp
	$(BIN)/python tools/pythons.py --quick $(BIN)/python

# An sdist, and a wheel for each system, cross-compiled.
wheels: .venv/wheels.stamp
	$(BIN)/python tools/wheels.py

# The tests that need no PyTorch, on the lowest versions that pyproject.toml allows.
lowest: .venv-lowest/stamp
	.venv-lowest/bin/python -m pytest -q -n $(WORKERS) $(LOWEST)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-actions action/action.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml

bench: .venv/dev.stamp
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/post_training.py
	$(BIN)/python benchmarks/layerwise.py --small

bench-quick: .venv/dev.stamp
	$(BIN)/python benchmarks/run.py --quick

# CONFORMANCE=--torch, --operations or --neural-network: other parts of coremltools' tests.
conformance: .venv/dev.stamp
	$(BIN)/python -m conformance $(CONFORMANCE)

# Without atheris, which has no wheel for every system, inputs are random.
fuzz: .venv/dev.stamp
	-$(BIN)/pip install --quiet atheris
	$(BIN)/python -m tests.fuzz
	$(BIN)/python -m tests.fuzzing --minutes 30

schema: .venv/dev.stamp
	$(BIN)/python -m grpc_tools.protoc -Isrc/corepress/formats/schema --include_imports \
		--descriptor_set_out=src/corepress/formats/schema/schema.binpb model.proto

docs: .venv/dev.stamp
	$(BIN)/python -m tools.write_docs
	$(BIN)/python -m tools.operations_table
	$(BIN)/python -m tools.layers_table

# The documentation as a site, in build/site; a link to nothing, or a name without documentation, fails.
site: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Runs the notebooks of docs/tutorials, and writes into them what they print.
notebooks: .venv/docs.stamp
	$(BIN)/python -m tools.notebooks

# Draws what the commands print, for README.md and the site; with a Chromium, also the pages that they write.
screens: .venv/dev.stamp
	$(BIN)/python -m tools.screens

clean:
	rm -rf .venv .venv-lowest build dist

.venv/core.stamp: pyproject.toml constraints.txt $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/torch.stamp: pyproject.toml constraints.txt .venv/core.stamp
	$(BIN)/pip install --quiet -c constraints.txt -e '.[torch]'
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch .venv/core.stamp .venv/torch.stamp $@ # what these have is among it

.venv/docs.stamp: pyproject.toml .venv/dev.stamp
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

.venv/wheels.stamp: pyproject.toml .venv/core.stamp
	$(BIN)/pip install --quiet -c constraints.txt -e '.[wheels]'
	touch $@

.venv-lowest/stamp: pyproject.toml tools/lowest.py
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) tools/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/pip install --quiet -c .venv-lowest/constraints.txt -e . \
		coremltools==9.0 kmeans1d scikit-learn pillow psutil hypothesis pytest pytest-timeout pytest-xdist
	touch $@
