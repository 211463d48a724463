// What a kernel sees: a decoded launch, a bind-time context and a run-time context.
//
// Life of a launch: `Program` decodes it into a LaunchDesc and calls the kernel's factory once (bind). The factory validates, picks a
// strategy, packs constant weights and returns a Kernel. `Kernel::run` is then called once per replay: it must not allocate.
// Operand addresses change between runs (inputs, outputs, arena growth): read them from `desc.ins[k].data` inside `run`.
#pragma once
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/types.h"

// What runs once per plan, in files that are compiled for speed: for size, and out of the way.
#define PTRT_COLD __attribute__((cold))

namespace ptrt {

struct KernelError : std::runtime_error {  // data-dependent failure (an index out of range, ...) or an unsupported combination at bind
  using std::runtime_error::runtime_error;
};

// One instruction of a straight-line program. Registers are instruction indices (SSA); the last instruction is the result.
struct Instr {
  int32_t op = 0;                  // opcodes.h
  DType dtype = DType::none;       // dtype of the result
  int32_t args[3] = {-1, -1, -1};  // earlier instructions; for `load`: the operand number; for `iota`: the axis
  union {                          // for `constant`
    double f;                      // floating dtypes
    int64_t i;                     // integer and boolean dtypes
  };
  Instr() : i(0) {}
};
using Expr = std::vector<Instr>;

// Parameters in the order in which kernels/spec.py declares them.
class Params {
 public:
  Params() = default;
  Params(const int64_t* p, const int64_t* end) : p_(p), end_(end) {}
  int64_t i() { return take(); }  // also enums
  double f() {
    int64_t v = take();
    double d;
    std::memcpy(&d, &v, sizeof d);
    return d;
  }
  std::vector<int64_t> ints() {
    std::vector<int64_t> v(count());
    for (auto& x : v) x = take();
    return v;
  }
  std::vector<double> floats() {
    std::vector<double> v(count());
    for (auto& x : v) x = f();
    return v;
  }

 private:
  int64_t take() {
    if (p_ == end_) throw KernelError("launch encoding: parameters exhausted");
    return *p_++;
  }
  size_t count() {
    const int64_t n = take();
    if (n < 0 || n > end_ - p_) throw KernelError("launch encoding: count out of range");
    return static_cast<size_t>(n);
  }
  const int64_t *p_ = nullptr, *end_ = nullptr;
};

struct LaunchDesc {
  int32_t kernel = 0;
  std::vector<Operand> ins;   // optional operands that are absent have dtype none
  std::vector<Operand> outs;  // likewise
  std::vector<int64_t> param_words;
  Params params() const { return Params(param_words.data(), param_words.data() + param_words.size()); }
  // map: `body` over ins. Others: empty.
  Expr body;
  // If `prologue` is not empty, ins[0] has no memory (data is null): its elements are prologue(pro_ins...) evaluated at each index. ins[0]
  // still carries the logical shape and dtype; every pro_in has exactly ins[0]'s rank and shape (broadcast axes have stride 0).
  Expr prologue;
  std::vector<Operand> pro_ins;
  // If `epilogue` is not empty, the value stored to outs[0] is epilogue(acc, epi_ins...): `acc` is the kernel's result in `acc_dtype`
  // precision, outs[0].dtype is the dtype after the epilogue. Every epi_in has exactly outs[0]'s rank and shape (broadcast axes: stride 0).
  // An epi_in may be the very same memory as outs[0], with the same strides (in place): read an element before writing it.
  Expr epilogue;
  std::vector<Operand> epi_ins;
  DType acc_dtype = DType::none;  // dtype of the kernel's own result (equals outs[0].dtype without an epilogue)
};

// Drops the whole pages of a mapped constant between two element offsets from `data`: they are clean, and read again from the file if they
// are ever needed. Does nothing for other operands.
void give_back(const Operand& source, int64_t begin, int64_t end);
void give_back(const Operand& source);  // all of it, if it is dense

// A packed weight that may still be missing: a large weight that lies in the mapped file is packed when it is used for the second time. Its
// first use reads the file's pages instead, so that the first result does not wait for all weights to be copied and a process that asks
// only once never holds the copies. Both ways must give the same bits.
class LazyPack {
 public:
  virtual ~LazyPack() = default;
  // The packed memory, or null: then the caller computes from `source` and calls `release(source)` when it is done. At the second use
  // `fill` is called to pack. For the thread that runs the program only.
  const void* use(const Operand& source, int threads, const std::function<void(void*)>& fill) {
    const void* packed = data_.load(std::memory_order_acquire);
    return packed ? packed : first_uses(source, threads, fill);
  }
  bool packed() const { return data_.load(std::memory_order_acquire) != nullptr; }

 protected:
  virtual const void* first_uses(const Operand& source, int threads, const std::function<void(void*)>& fill) = 0;
  std::atomic<const void*> data_{nullptr};
};

// A kernel's private copy of a constant weight, shared between all launches that read the same constant in the same layout.
class PackCache {
 public:
  virtual ~PackCache() = default;
  // Returns 64-byte aligned memory of `bytes` bytes, filled by `fill` on the first request for (source address, layout). `layout` must name
  // the packing and everything it depends on, e.g. "gemm_b:f32:K=768:N=768:NR=32:sk=768:sn=1".
  virtual std::shared_ptr<const void> get(const Operand& source, const std::string& layout, size_t bytes,
                                          const std::function<void(void*)>& fill) = 0;
  // What get() returned for them before, null if nothing: for those who would have to work to know how many bytes.
  virtual std::shared_ptr<const void> find(const Operand& source, const std::string& layout) const = 0;
  // The same as get() for a kernel that can also run from the source itself.
  virtual std::shared_ptr<LazyPack> lazily(const Operand& source, const std::string& layout, size_t bytes,
                                           const std::function<void(void*)>& fill) = 0;
};

// Features that no level promises, for kernels to ask for: AVX512_BF16 and AVX512_VBMI.
bool cpu_has_bf16();
bool cpu_has_byte_permutes();
// How far ahead of what it multiplies a kernel that streams through memory once should prefetch it: 0 on cores whose own prefetching is
// better left alone (Zen 3 and 4).
int64_t stream_prefetch_bytes();

class ThreadPool;

struct BindContext {
  PackCache& packs;
  int threads;  // the most workers a run of this program may use (never let results depend on it)
};

// Handed to run(). `shared`/`thread_scratch(t)` have at least the sizes that the kernel declared, 64-byte aligned, contents undefined.
class RunContext {
 public:
  RunContext(ThreadPool* pool, int threads, char* shared, char* per_thread, size_t per_thread_bytes)
      : shared_scratch(shared), pool_(pool), threads_(threads), per_thread_(per_thread), per_thread_bytes_(per_thread_bytes) {}
  char* shared_scratch;
  char* thread_scratch(int worker) const { return per_thread_ + static_cast<size_t>(worker) * per_thread_bytes_; }
  int threads() const { return threads_; }
  // Calls f(task, worker) for every task in [0, n), on up to threads() workers, and returns when all are done. Tasks must write disjoint
  // memory and must not depend on which worker runs them or in what order: that is what makes results the same for any thread count.
  // An exception in a task is rethrown here (the one of the lowest task number). `brief`: as for ThreadPool::run.
  template <class F>
  void parallel(int64_t n, F&& f, bool brief = false) const {
    if (n == 1 || threads_ == 1) {
      for (int64_t t = 0; t < n; t++) f(t, 0);
    } else if (n > 1) {
      using Fn = std::remove_reference_t<F>;
      dispatch(
          n, [](void* self, int64_t t, int w) { (*static_cast<Fn*>(self))(t, w); }, const_cast<void*>(static_cast<const void*>(&f)), brief);
    }
  }

 private:
  void dispatch(int64_t n, void (*call)(void*, int64_t, int), void* self, bool brief) const;  // thread_pool.cpp
  ThreadPool* pool_;
  int threads_;
  char* per_thread_;
  size_t per_thread_bytes_;
};

class Kernel {
 public:
  explicit Kernel(LaunchDesc d) : desc(std::move(d)) {}
  virtual ~Kernel() = default;
  virtual void run(const RunContext& ctx) = 0;
  virtual size_t shared_scratch_bytes() const { return 0; }  // one block per launch
  virtual size_t thread_scratch_bytes() const { return 0; }  // one block per worker
  virtual bool constants_move() const { return false; }      // nothing of constant operands was read at bind: read their addresses in `run`
  virtual std::string describe() const { return {}; }        // the strategy chosen, e.g. "winograd F(4,3), 14x32": for reports
  LaunchDesc desc;
};

using Factory = std::unique_ptr<Kernel> (*)(LaunchDesc, BindContext&);

// One table per ISA level, indexed by kernel id (kernel_ids.h). A null entry means: not implemented by this backend.
struct KernelTable {
  const char* isa;
  Factory factories[64];
};

}  // namespace ptrt
