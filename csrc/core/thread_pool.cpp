#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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
constexpr auto kSpin = std::chrono::microseconds(60);    // longer than the gap between two launches, far shorter than a scheduler quantum
constexpr int kPatience = 4096;                          // pauses for which a caller waits for the last workers before it looks after them
constexpr auto kGlance = std::chrono::microseconds(20);  // in which a worker that runs uses some of its CPU's time

using Clock = std::chrono::steady_clock;

// CPUs in the calling thread's affinity mask.
int allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
}

// The quota of one control group in CPUs, or a large number.
int quota_of(const std::string& file, const std::string& period_file) {
  long quota = -1, period = -1;
  if (FILE* f = std::fopen(file.c_str(), "r")) {
    const int n = std::fscanf(f, "%ld %ld", &quota, &period);  // "max 100000" reads nothing
    std::fclose(f);
    if (n < 1) return 1 << 20;
  }
  if (period < 0 && !period_file.empty()) {
    if (FILE* f = std::fopen(period_file.c_str(), "r")) {
      if (std::fscanf(f, "%ld", &period) != 1) period = -1;
      std::fclose(f);
    }
  }
  if (quota <= 0 || period <= 0) return 1 << 20;
  return static_cast<int>(std::min(1L << 20, std::max(1L, (quota + period - 1) / period)));
}

// The smallest quota of this process's control group and its ancestors (of both versions, as far as they are visible).
int cgroup_cpus() {
  int cpus = 1 << 20;
  std::vector<std::pair<std::string, bool>> groups = {{"/sys/fs/cgroup", true}, {"/sys/fs/cgroup/cpu", false}};
  if (FILE* f = std::fopen("/proc/self/cgroup", "r")) {
    char line[4096];
    while (std::fgets(line, sizeof line, f)) {  // "0::/path" or "4:cpu,cpuacct:/path"
      const std::string text(line, std::strcspn(line, "\n"));
      const size_t a = text.find(':'), b = a == std::string::npos ? a : text.find(':', a + 1);
      if (b == std::string::npos) continue;
      const std::string controllers = "," + text.substr(a + 1, b - a - 1) + ",";
      const bool v2 = controllers == ",,";
      if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
      for (std::string path = text.substr(b + 1); path.size() > 1; path.resize(path.rfind('/'))) {
        if (path[0] != '/') break;
        groups.emplace_back((v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu") + path, v2);
      }
    }
    std::fclose(f);
  }
  for (const auto& [path, v2] : groups)
    cpus = std::min(cpus, v2 ? quota_of(path + "/cpu.max", "") : quota_of(path + "/cpu.cfs_quota_us", path + "/cpu.cfs_period_us"));
  return cpus;
}
}  // namespace

// How a job is handed over. The caller fills in the job while `open` is false and nobody is `inside`, opens it and bumps `epoch`. A worker
// that sees a new epoch enters (`inside`), and only then asks whether the job is still open; the caller closes the job before it waits for
// `inside` to be zero. Both orders are sequentially consistent, so either the worker sees it closed or the caller waits for it. A worker
// goes to sleep by setting `asleep` and then looking at the epoch once more; the caller bumps the epoch and then looks at `asleep`.
struct ThreadPool::Impl {
  struct alignas(64) Worker {
    std::mutex mutex;
    std::condition_variable wake;
    std::atomic<bool> asleep{false};
    std::atomic<bool> busy{false};  // it is, or is about to be, inside a job
    pthread_t thread{};
    // The CPU of the last caller, that it was moved away from; -1: none; kMoved: it was moved to one. Guarded by job_mutex.
    int kept_off = -1;
  };
  static constexpr int kMoved = -2;
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};  // to claim
    int64_t end = 0;
  };

  const int cpus = allowed_cpus();
  std::mutex job_mutex;                          // held by the caller whose job is running; guards `workers`
  std::vector<std::unique_ptr<Worker>> workers;  // worker k + 1 is workers[k]
  alignas(64) std::atomic<uint64_t> epoch{0};    // number of the newest job
  std::atomic<bool> open{false};                 // may workers enter the job?
  int wanted = 1;                                // workers of this job, the caller included
  std::unique_ptr<Range[]> ranges;               // one per worker
  int range_count = 0;
  void (*call)(void*, int64_t, int) = nullptr;
  void* self = nullptr;
  Clock::time_point last_brief;            // when the newest brief job began; guarded by job_mutex
  alignas(64) std::atomic<int> inside{0};  // workers that may still touch the job
  alignas(64) std::mutex error_mutex;
  std::exception_ptr error;
  int64_t error_task = -1;

  // A worker does the tasks of its own range, and then what is left of the others'. Neighbouring tasks share weights or rows of an image,
  // and the same worker finds what it wrote in the last launch in its own cache.
  void work(int worker) {
    for (int k = 0; k < wanted; k++) {
      Range& r = ranges[(worker + k) % wanted];
      if (k && r.next.load(std::memory_order_relaxed) >= r.end) continue;
      for (int64_t t; (t = r.next.fetch_add(1, std::memory_order_relaxed)) < r.end;) {
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
  }

  void divide(int64_t n) {
    if (range_count < wanted) {
      ranges.reset(new Range[static_cast<size_t>(wanted)]);
      range_count = wanted;
    }
    const int64_t size = n / wanted, extra = n % wanted;
    for (int64_t k = 0, at = 0; k < wanted; k++) {
      ranges[k].next.store(at, std::memory_order_relaxed);
      ranges[k].end = at += size + (k < extra);
    }
  }

  void loop(Worker& me, int worker) {
    uint64_t seen = 0;
    auto deadline = Clock::now() + kSpin;
    for (unsigned spins = 1;; spins++) {
      const uint64_t now = epoch.load(std::memory_order_acquire);
      if (now != seen) {
        seen = now;
        me.busy.store(true, std::memory_order_relaxed);
        inside.fetch_add(1);
        const bool mine = open.load() && worker < wanted;
        if (mine) work(worker);
        inside.fetch_sub(1, std::memory_order_release);
        me.busy.store(false, std::memory_order_relaxed);
        if (mine) deadline = Clock::now() + kSpin;
        continue;
      }
      PTRT_PAUSE();
      if (spins % 64 != 0 || Clock::now() < deadline) continue;
      std::unique_lock<std::mutex> lock(me.mutex);
      me.asleep.store(true);
      if (epoch.load() == seen) me.wake.wait(lock, [&] { return !me.asleep.load(); });
      me.asleep.store(false);
      deadline = Clock::now() + kSpin;
    }
  }

  // Lets a worker run where its caller may, except on `cpu`; -1: everywhere. A scheduler likes to wake a thread where its waker runs (the
  // caches are warm, or it packs virtual CPUs), and there it waits for the very thread that waits for it: with 20 ms between runs of 4 ms,
  // two threads took 9.5 ms where one took 7.1. Where sched_getcpu is a read of memory (rseq) asking costs 2 ns.
  static void keep_off(Worker& w, int cpu) {
    w.kept_off = cpu;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof set, &set) != 0) return;
    if (cpu >= 0) CPU_CLR(cpu, &set);
    if (CPU_COUNT(&set) > 0) pthread_setaffinity_np(w.thread, sizeof set, &set);
  }

  // CPU time that a worker has had, in nanoseconds, or -1.
  static int64_t cpu_time(const Worker& w) {
    clockid_t clock;
    timespec t;
    if (pthread_getcpuclockid(w.thread, &clock) != 0 || clock_gettime(clock, &t) != 0) return -1;
    return int64_t{1000000000} * t.tv_sec + t.tv_nsec;
  }

  // The caller has nothing left to do and some worker is still at its task. If another process took that worker's CPU in the middle of it,
  // which may be for milliseconds, the worker gets the caller's, which is free meanwhile. With one busy process beside two threads on two
  // CPUs, networks of 0.5 to 15 ms took 1.3 times as long without.
  void make_way() {
    for (auto& worker : workers) {
      Worker& w = *worker;
      if (!w.busy.load(std::memory_order_relaxed) || w.kept_off == kMoved) continue;
      const int64_t before = cpu_time(w);
      const auto until = Clock::now() + kGlance;
      while (inside.load() != 0 && Clock::now() < until) PTRT_PAUSE();
      if (inside.load() == 0) return;
      if (before < 0 || cpu_time(w) - before > std::chrono::nanoseconds(kGlance).count() / 4) continue;  // it runs
      cpu_set_t set;
      CPU_ZERO(&set);
      const int here = sched_getcpu();
      if (here < 0 || here >= CPU_SETSIZE) return;
      CPU_SET(here, &set);
      if (pthread_setaffinity_np(w.thread, sizeof set, &set) != 0) continue;
      w.kept_off = kMoved;  // until the next job
    }
    for (auto& worker : workers)
      if (worker->kept_off == kMoved && worker->busy.load(std::memory_order_relaxed)) {
        const timespec moment{0, 1000};  // (the system makes it 50 microseconds)
        nanosleep(&moment, nullptr);
        return;
      }
  }

  // Makes sure that workers 1 .. count exist, or as many as the system allows.
  void start(int count) {
    while (static_cast<int>(workers.size()) < count) {
      sigset_t all, before;
      sigfillset(&all);
      pthread_sigmask(SIG_BLOCK, &all, &before);  // signals are for the application's own threads
      try {
        auto me = std::make_unique<Worker>();
        workers.reserve(workers.size() + 1);
        Worker* w = me.get();
        const int number = static_cast<int>(workers.size()) + 1;
        std::thread thread([this, w, number] { loop(*w, number); });
        w->thread = thread.native_handle();
        thread.detach();
        workers.push_back(std::move(me));
      } catch (const std::exception&) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return;
      }
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
  }
};

ThreadPool::ThreadPool() : impl_(new Impl) {}

int ThreadPool::available_cpus() { return std::max(1, std::min(allowed_cpus(), cgroup_cpus())); }

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

void ThreadPool::run(int64_t n, int threads, void (*call)(void*, int64_t, int), void* self, bool brief) {
  Impl& p = *impl_;
  std::unique_lock<std::mutex> job(p.job_mutex, std::defer_lock);
  if (n < 2 || threads < 2 || !job.try_lock()) {
    for (int64_t t = 0; t < n; t++) call(self, t, 0);
    return;
  }
  const int wanted = static_cast<int>(std::min<int64_t>(n, threads));
  p.start(wanted - 1);
  p.wanted = wanted;
  p.divide(n);
  p.call = call;
  p.self = self;
  p.error_task = -1;
  p.open.store(true);
  p.epoch.fetch_add(1);
  const int here = wanted <= p.cpus ? sched_getcpu() : -1;  // more threads than CPUs share them as the system likes
  bool wake = true;
  if (brief) {  // waking a thread takes longer than the job (on a virtual machine, tens of microseconds): it only pays if more jobs follow
    const auto now = Clock::now();
    wake = now - p.last_brief < kSpin;
    p.last_brief = now;
  }
  for (int k = 0; k < wanted - 1 && k < static_cast<int>(p.workers.size()); k++) {
    Impl::Worker& w = *p.workers[static_cast<size_t>(k)];
    if (w.kept_off != here) Impl::keep_off(w, here);
    if (!wake || !w.asleep.load()) continue;
    {
      std::lock_guard<std::mutex> lock(w.mutex);
      w.asleep.store(false);
    }
    w.wake.notify_one();
  }
  p.work(0);
  p.open.store(false);
  for (int spins = 0; p.inside.load() != 0; spins++) {
    if (spins < kPatience) PTRT_PAUSE();
    else if (here >= 0) p.make_way();
    else sched_yield();
  }
  if (p.error) std::rethrow_exception(std::exchange(p.error, nullptr));
}

void RunContext::dispatch(int64_t n, void (*call)(void*, int64_t, int), void* self, bool brief) const {
  pool_->run(n, threads_, call, self, brief);
}

}  // namespace ptrt
