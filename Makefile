PYTHON ?= python3
BUILD ?= build/dev
LEVELS ?= auto

.PHONY: native check test bench bench-check bench-record format wheel sanitize
native:  ## compile the extension in place (LEVELS="v4x" for one ISA level)
	cmake -S . -B $(BUILD) -G Ninja -DPTRT_LEVELS="$(LEVELS)" -DPython_EXECUTABLE=$$(which $(PYTHON)) > /dev/null
	cmake --build $(BUILD)
	cp $(BUILD)/_native*.so pytensor_rt/

check:  ## everything that must hold before a commit
	ruff format --check .
	ruff check .
	mypy
	clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.inc' '*.cuh')
	lint-imports

format:
	ruff format .
	ruff check --fix .
	clang-format -i $$(git ls-files '*.h' '*.cpp' '*.inc' '*.cuh')

test:
	$(PYTHON) -m pytest

bench:
	$(PYTHON) benchmarks/compare.py

bench-check:  ## fails where we are slower against onnxruntime than benchmarks/baseline.json says
	$(PYTHON) benchmarks/check.py

bench-record:
	$(PYTHON) benchmarks/check.py --record

wheel:
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .

sanitize:
	tools/sanitize.sh
