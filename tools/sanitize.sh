#!/bin/sh
# Sanitizers, without touching the extension in pytensor_rt/.
#   tools/sanitize.sh address [pytest arguments, default: tests/kernels tests/core]
#       builds one ISA level with ASan and UBSan into build/asan and runs the tests on it
#   tools/sanitize.sh thread
#       builds the thread pool with TSan and runs its stress test
# LEVEL=v4x chooses the ISA level, JOBS=n the build jobs. Fails if a test fails or if a sanitizer reported anything (build/asan/report.*).
set -eu
cd "$(dirname "$0")/.."
kind=${1:-address}
[ $# -gt 0 ] && shift
cxx=${CXX:-c++}
# Without address randomisation: older sanitizers do not know where newer kernels put things.
fixed="setarch $(uname -m) -R"

if [ "$kind" = thread ]; then
  mkdir -p build/tsan
  $cxx -std=c++17 -O1 -g -fsanitize=thread -Icsrc tests/core/thread_pool_stress.cpp csrc/core/thread_pool.cpp -o build/tsan/stress -pthread
  TSAN_OPTIONS="die_after_fork=0 halt_on_error=1" exec $fixed build/tsan/stress
fi
[ "$kind" = address ] || { echo "usage: $0 address|thread [pytest arguments]" >&2; exit 2; }

# UBSan's checks of pointers and of signed overflow make the unrolled loops compile fifty times as long; ASan sees what a bad pointer does.
checks=address,bounds,shift,integer-divide-by-zero,float-cast-overflow,unreachable,return,bool,enum
python=$(command -v "${PYTHON:-python3}")
cmake -S . -B build/asan -G Ninja -DPTRT_LEVELS="${LEVEL:-v3}" -DPTRT_SANITIZE="$checks" -DCMAKE_BUILD_TYPE=Sanitize \
  -DCMAKE_CXX_FLAGS_SANITIZE="-O1 -g1" -DPython_EXECUTABLE="$python" > /dev/null
cmake --build build/asan -j "${JOBS:-2}"
rm -rf build/asan/root build/asan/report.*
mkdir -p build/asan/root
cp -r pytensor_rt tests pyproject.toml build/asan/root/
rm -f build/asan/root/pytensor_rt/_native*.so
cp build/asan/_native*.so build/asan/root/pytensor_rt/
report=$(pwd)/build/asan/report
cd build/asan/root
export PYTHONMALLOC=malloc
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096:log_path=$report"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$report"
[ $# -gt 0 ] || set -- tests/kernels tests/core
status=0
$fixed env LD_PRELOAD="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libstdc++.so.6)" \
  "$python" -m pytest -p no:cacheprovider "$@" || status=$?
# (A test asks for more memory than there is: that warning alone is no finding.)
if cat "$report".* 2> /dev/null | grep -E "runtime error|ERROR: AddressSanitizer|SUMMARY" | sort | uniq -c | sort -rn | grep .; then
  status=1
fi
exit $status
