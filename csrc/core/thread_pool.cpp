#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <thread>

#include "core/launch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define PTRT_PAUSE() _mm_pause()
#elif defined(__aarch64__)
#define PTRT_PAUSE() asm volatile("yield")
#else
#define PTRT_PAUSE() std::this_thread::yield()
#endif

namespace ptrt {

namespace {
constexpr auto kSpin = std::chrono::microseconds(60);  // longer than the gap between two launches, far shorter than a scheduler quantum

int cgroup_cpus() {
  long quota = -1, period = -1;
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(f, "%ld %ld", &quota, &period) != 2) quota = -1;
    std::fclose(f);
  } else if (FILE* q = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (std::fscanf(q, "%ld", &quota) != 1) quota = -1;
    std::fclose(q);
    if (FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%ld", &period) != 1) period = -1;
      std::fclose(p);
    }
  }
  if (quota <= 0 || period <= 0) return 1 << 20;
  return static_cast<int>(std::max(1L, (quota + period - 1) / period));
}
}  // namespace

struct ThreadPool::Impl {
  std::mutex job_mutex;    // held by the caller whose job is running
  std::mutex sleep_mutex;  // guards `sleeping` transitions
  std::condition_variable wake;
  std::atomic<uint64_t> epoch{0};  // even: idle; a job is published by setting job fields, then bumping
  std::atomic<int64_t> next{0};    // next task to claim
  std::atomic<int> inside{0};      // workers that may still touch the job
  std::atomic<int> sleeping{0};
  std::atomic<bool> open{false};  // workers may enter the job
  int64_t n = 0;
  int threads = 1;
  void (*call)(void*, int64_t, int) = nullptr;
  void* self = nullptr;
  std::mutex error_mutex;
  std::exception_ptr error;
  int64_t error_task = -1;
  int started = 0;  // workers that exist, guarded by job_mutex
  int max = 1;

  void work(int worker) {
    for (;;) {
      int64_t t = next.fetch_add(1, std::memory_order_relaxed);
      if (t >= n) return;
      try {
        call(self, t, worker);
      } catch (...) {
        std::lock_guard<std::mutex> lock(error_mutex);
        if (error_task < 0 || t < error_task) {
          error_task = t;
          error = std::current_exception();
        }
      }
    }
  }

  void loop(int worker) {
    uint64_t seen = 0;
    for (;;) {
      auto deadline = std::chrono::steady_clock::now() + kSpin;
      int spins = 0;
      while (epoch.load(std::memory_order_acquire) == seen) {
        PTRT_PAUSE();
        if ((++spins & 63) == 0 && std::chrono::steady_clock::now() > deadline) {
          std::unique_lock<std::mutex> lock(sleep_mutex);
          sleeping.fetch_add(1);
          wake.wait(lock, [&] { return epoch.load() != seen; });
          sleeping.fetch_sub(1);
          break;
        }
      }
      seen = epoch.load(std::memory_order_acquire);
      // Enter, then check that the job is still open: the caller closes it before it waits for `inside` to reach zero.
      inside.fetch_add(1);
      if (open.load() && worker < threads) work(worker);
      inside.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool() : impl_(new Impl) { impl_->max = available_cpus(); }

int ThreadPool::available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(n, cgroup_cpus()));
}

namespace {
ThreadPool* g_pool = nullptr;
std::mutex* g_pool_mutex = new std::mutex;
void after_fork_in_child() {  // the workers did not survive: start afresh; the old state may be locked, so it is abandoned
  g_pool = nullptr;
  g_pool_mutex = new std::mutex;
}
}  // namespace

ThreadPool& ThreadPool::instance() {
  std::lock_guard<std::mutex> lock(*g_pool_mutex);
  if (!g_pool) {
    static bool registered = false;
    if (!registered) {
      pthread_atfork(nullptr, nullptr, after_fork_in_child);
      registered = true;
    }
    g_pool = new ThreadPool;
  }
  return *g_pool;
}

int ThreadPool::max_threads() const { return impl_->max; }

void ThreadPool::run(int64_t n, int threads, void (*call)(void*, int64_t, int), void* self) {
  Impl& p = *impl_;
  std::unique_lock<std::mutex> job(p.job_mutex, std::try_to_lock);
  if (!job.owns_lock() || threads < 2) {
    for (int64_t t = 0; t < n; t++) call(self, t, 0);
    return;
  }
  while (p.started < threads - 1) {
    int worker = ++p.started;
    std::thread([&p, worker] { p.loop(worker); }).detach();
  }
  p.n = n;
  p.threads = threads;
  p.call = call;
  p.self = self;
  p.error = nullptr;
  p.error_task = -1;
  p.next.store(0, std::memory_order_relaxed);
  p.open.store(true);
  p.epoch.fetch_add(1);
  if (p.sleeping.load() > 0) {
    {
      std::lock_guard<std::mutex> lock(p.sleep_mutex);
    }  // a worker between its check and its wait sees the new epoch or is woken
    p.wake.notify_all();
  }
  p.work(0);
  p.open.store(false);
  while (p.inside.load() != 0) PTRT_PAUSE();
  if (p.error) std::rethrow_exception(p.error);
}

void RunContext::dispatch(int64_t n, void (*call)(void*, int64_t, int), void* self) const { pool_->run(n, threads_, call, self); }

}  // namespace ptrt
