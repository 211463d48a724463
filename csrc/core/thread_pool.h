// One pool per process. Workers spin for some microseconds after a job and then sleep, so an idle process uses no CPU.
#pragma once
#include <cstdint>

namespace ptrt {

class ThreadPool {
 public:
  static ThreadPool& instance();
  // CPUs this process may use: the affinity mask capped by the cgroup quota.
  static int available_cpus();
  // Runs call(self, task, worker) for tasks [0, n) on at most `threads` workers, the caller being worker 0. If the pool is busy with
  // another caller's job, the caller does all tasks itself. Rethrows the exception of the lowest failing task. Tasks must not call run().
  // `brief`: a job of some 20 microseconds or less, for which a sleeping worker is only woken if the last such job was just now.
  void run(int64_t n, int threads, void (*call)(void*, int64_t, int), void* self, bool brief = false);

 private:
  ThreadPool();
  struct Impl;
  Impl* impl_;  // leaked on purpose: workers may outlive static destruction
};

}  // namespace ptrt
