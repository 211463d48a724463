// Stresses the pool without Python, to be run under ThreadSanitizer (tools/sanitize.sh thread): many small jobs, several callers, errors,
// fork.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "core/launch.h"
#include "core/thread_pool.h"

using namespace ptrt;

namespace {

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::_Exit(1);
}

void jobs(int threads, int count, int64_t n) {
  std::vector<int64_t> data(static_cast<size_t>(n));  // plain memory: a task that runs twice or late is a race
  const RunContext ctx(&ThreadPool::instance(), threads, nullptr, nullptr, 0);
  for (int k = 0; k < count; k++) {
    ctx.parallel(
        n,
        [&](int64_t t, int worker) {
          require(worker >= 0 && worker < threads, "worker number");
          data[static_cast<size_t>(t)] += t + k;
        },
        k / 50 % 2 != 0);
    int64_t sum = 0;
    for (int64_t v : data) sum += v;
    require(sum == (k + 1) * n * (n - 1) / 2 + n * (int64_t{k} * (k + 1) / 2), "every task ran once");
    if (k % 97 == 0) std::this_thread::sleep_for(std::chrono::microseconds(150));  // workers fall asleep
  }
}

void errors(int threads) {
  const RunContext ctx(&ThreadPool::instance(), threads, nullptr, nullptr, 0);
  for (int k = 0; k < 200; k++) {
    std::string got;
    try {
      ctx.parallel(64, [&](int64_t t, int) {
        if (t >= 17) throw KernelError(std::to_string(t));
      });
    } catch (const KernelError& e) {
      got = e.what();
    }
    require(got == "17", "the lowest error");
  }
}

}  // namespace

int main() {
  for (int threads : {2, 3, 8}) jobs(threads, 1500, 2 + threads);
  errors(4);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; c++) callers.emplace_back([c] { jobs(2 + c, 400, 33); });
  for (auto& t : callers) t.join();
  for (int k = 0; k < 3; k++) {
    const pid_t child = fork();
    if (child == 0) {
      jobs(3, 100, 20);
      std::_Exit(0);
    }
    int status = 0;
    require(waitpid(child, &status, 0) == child && status == 0, "a forked child can use the pool");
    jobs(3, 100, 20);
  }
  std::puts("ok");
}
