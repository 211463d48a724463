#include "core/program.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "core/thread_pool.h"
#include "core/vocabulary.h"

namespace ptrt {

namespace {
constexpr size_t kAlign = 64, kHuge = size_t{2} << 20;

size_t round_up(size_t n, size_t a) { return (n + a - 1) / a * a; }

char* allocate(size_t bytes) {
  if (bytes == 0) bytes = kAlign;
  const bool huge = bytes >= kHuge;
  void* p = nullptr;
  if (posix_memalign(&p, huge ? kHuge : size_t{4096}, round_up(bytes, kAlign)) != 0) throw std::bad_alloc();
  if (huge) madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<char*>(p);
}

void give_back(const Operand& source) {  // drop the clean pages of a read-only mapping: they are read again from the file if ever needed
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  auto lo = reinterpret_cast<uintptr_t>(source.data), hi = lo + static_cast<uintptr_t>(source.size()) * itemsize(source.dtype);
  lo = (lo + page - 1) / page * page;
  hi = hi / page * page;
  if (hi > lo) madvise(reinterpret_cast<void*>(lo), hi - lo, MADV_DONTNEED);
}

class Reader {
 public:
  Reader(const int64_t* p, size_t n) : p_(p), end_(p + n) {}
  int64_t next() {
    if (p_ == end_) throw KernelError("program encoding: truncated");
    return *p_++;
  }
  int64_t count(int64_t limit) {
    int64_t n = next();
    if (n < 0 || n > limit) throw KernelError("program encoding: count out of range");
    return n;
  }

 private:
  const int64_t *p_, *end_;
};
}  // namespace

Arena::~Arena() {
  std::free(data_);
  std::free(scratch_);
}

void Arena::reserve(size_t data_bytes, size_t scratch_bytes) {
  if (data_bytes <= data_bytes_ && scratch_bytes <= scratch_bytes_ && data_) return;
  if (data_bytes > data_bytes_ || !data_) {
    std::free(data_);
    data_ = nullptr;
    data_ = allocate(data_bytes);
    data_bytes_ = data_bytes;
  }
  if (scratch_bytes > scratch_bytes_ || !scratch_) {
    std::free(scratch_);
    scratch_ = nullptr;
    scratch_ = allocate(scratch_bytes);
    scratch_bytes_ = scratch_bytes;
  }
  generation_++;
}

std::shared_ptr<const void> Packs::get(const Operand& source, const std::string& layout, size_t bytes,
                                       const std::function<void(void*)>& fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::string key = layout + "@" + std::to_string(reinterpret_cast<uintptr_t>(source.data));
  auto it = map_.find(key);
  if (it != map_.end()) return it->second;
  std::shared_ptr<void> memory(allocate(bytes), std::free);
  fill(memory.get());
  if (source.flags & Operand::kMapped && source.contiguous()) give_back(source);
  bytes_ += bytes;
  map_[key] = memory;
  return memory;
}

Program::Program(const int64_t* code, size_t words, const std::vector<Const>& consts, const KernelTable& table,
                 std::shared_ptr<Arena> arena, std::shared_ptr<Packs> packs, int threads)
    : arena_(std::move(arena)), packs_(std::move(packs)), threads_(std::max(1, threads)) {
  Reader r(code, words);
  const int64_t n_buffers = r.count(1 << 26), n_launches = r.count(1 << 26);
  buffers_.resize(static_cast<size_t>(n_buffers));
  for (auto& b : buffers_) {
    b.kind = r.next();
    b.value = r.next();
    b.nbytes = r.next();
    if (b.value < 0 || b.nbytes < 0) throw KernelError("program encoding: bad buffer");
    if (b.kind == kArena) arena_bytes_ = std::max(arena_bytes_, static_cast<size_t>(b.value + b.nbytes));
    else if (b.kind == kInput) num_inputs_ = std::max(num_inputs_, static_cast<size_t>(b.value + 1));
    else if (b.kind == kOutput) num_outputs_ = std::max(num_outputs_, static_cast<size_t>(b.value + 1));
    else if (b.kind == kConstBuffer) {
      if (static_cast<size_t>(b.value) >= consts.size() || consts[static_cast<size_t>(b.value)].nbytes < b.nbytes)
        throw KernelError("program encoding: bad constant");
    } else throw KernelError("program encoding: bad buffer kind");
  }
  struct Ref {
    int64_t buffer, byte_offset;
  };
  auto read_operand = [&](Operand& o) -> Ref {
    int64_t b = r.next();
    if (b == -1) return {-1, 0};
    int64_t offset = r.next();
    o.dtype = static_cast<DType>(r.next());
    o.ndim = static_cast<int32_t>(r.count(kMaxDims));
    for (int i = 0; i < o.ndim; i++) o.shape[i] = r.count(int64_t{1} << 48);
    for (int i = 0; i < o.ndim; i++) o.strides[i] = r.next();
    if (b == -2) return {-1, 0};  // stands for a prologue
    if (b < 0 || b >= n_buffers) throw KernelError("program encoding: bad buffer index");
    // The view must lie inside its buffer: the last line of defence for everything planned above.
    const auto item = static_cast<int64_t>(itemsize(o.dtype));
    __int128 lo = offset, hi = offset;
    bool empty = false;
    for (int i = 0; i < o.ndim; i++) {
      if (o.shape[i] == 0) empty = true;
      __int128 reach = static_cast<__int128>(o.shape[i] - 1) * o.strides[i];
      (reach < 0 ? lo : hi) += reach;
    }
    const Buffer& buf = buffers_[static_cast<size_t>(b)];
    if (!empty && (lo < 0 || (hi + 1) * item > buf.nbytes)) throw KernelError("program encoding: a view reaches outside its buffer");
    if (buf.kind == kConstBuffer) {
      const Const& c = consts[static_cast<size_t>(buf.value)];
      o.data = static_cast<char*>(c.data) + offset * item;
      o.flags = Operand::kConst | (c.mapped ? Operand::kMapped : 0);
    }
    return {b, offset * item};
  };
  auto read_expr = [&](int64_t n) {
    Expr e(static_cast<size_t>(n));
    for (int64_t k = 0; k < n; k++) {
      Instr& ins = e[static_cast<size_t>(k)];
      int64_t op = r.next();
      if (op < 0 || op >= kNumOps) throw KernelError("program encoding: bad opcode");
      ins.op = static_cast<int32_t>(op);
      ins.dtype = static_cast<DType>(r.next());
      for (int& a : ins.args) a = static_cast<int>(r.next());
      ins.i = r.next();
      for (int j = 0; j < kOpArity[op]; j++)
        if (ins.args[j] < 0 || ins.args[j] >= k) throw KernelError("program encoding: bad register");
    }
    return e;
  };
  auto check_loads = [](const Expr& e, size_t n) {
    for (const Instr& i : e)
      if (i.op == static_cast<int32_t>(Op::load_) && (i.args[0] < 0 || static_cast<size_t>(i.args[0]) >= n))
        throw KernelError("program encoding: bad operand number");
  };
  BindContext bind{*packs_, threads_};
  std::vector<Ref> refs;
  for (int64_t l = 0; l < n_launches; l++) {
    LaunchDesc d;
    refs.clear();
    const int64_t id = r.count(kNumKernels - 1);
    d.kernel = static_cast<int32_t>(id);
    const int64_t n_in = r.count(4096), n_out = r.count(16), n_pro = r.count(4096), n_epi = r.count(4096), n_par = r.count(1 << 20),
                  n_body = r.count(1 << 16), n_pe = r.count(1 << 16), n_ee = r.count(1 << 16);
    d.acc_dtype = static_cast<DType>(r.next());
    auto read_list = [&](std::vector<Operand>& v, int64_t n) {
      v.resize(static_cast<size_t>(n));
      for (auto& o : v) refs.push_back(read_operand(o));
    };
    read_list(d.ins, n_in);
    read_list(d.outs, n_out);
    read_list(d.pro_ins, n_pro);
    read_list(d.epi_ins, n_epi);
    d.param_words.resize(static_cast<size_t>(n_par));
    for (auto& w : d.param_words) w = r.next();
    d.body = read_expr(n_body);
    d.prologue = read_expr(n_pe);
    d.epilogue = read_expr(n_ee);
    check_loads(d.body, d.ins.size());
    check_loads(d.prologue, d.pro_ins.size());
    check_loads(d.epilogue, d.epi_ins.size());
    if (!table.factories[id]) throw LaunchError(static_cast<size_t>(l), std::string("kernel '") + kKernelNames[id] + "' is not available");
    std::unique_ptr<Kernel> kernel;
    try {
      kernel = table.factories[id](std::move(d), bind);
    } catch (const LaunchError&) {
      throw;
    } catch (const std::exception& e) {
      throw LaunchError(static_cast<size_t>(l), e.what());
    }
    size_t k = 0;
    for (auto* list : {&kernel->desc.ins, &kernel->desc.outs, &kernel->desc.pro_ins, &kernel->desc.epi_ins})
      for (auto& o : *list) {
        const Ref& ref = refs[k++];
        if (ref.buffer < 0) continue;
        const Buffer& b = buffers_[static_cast<size_t>(ref.buffer)];
        if (b.kind == kArena) arena_slots_.push_back({&o, b.value, ref.byte_offset});
        else if (b.kind == kInput) input_patches_.push_back({&o, b.value, ref.byte_offset});
        else if (b.kind == kOutput) output_patches_.push_back({&o, b.value, ref.byte_offset});
      }
    shared_scratch_ = std::max(shared_scratch_, round_up(kernel->shared_scratch_bytes(), kAlign));
    thread_scratch_ = std::max(thread_scratch_, round_up(kernel->thread_scratch_bytes(), kAlign));
    kernels_.push_back(std::move(kernel));
  }
  scratch_bytes_ = shared_scratch_ + thread_scratch_ * static_cast<size_t>(threads_);
  arena_->reserve(arena_bytes_, scratch_bytes_);
}

void Program::resolve_arena() {
  for (const Slot& s : arena_slots_) s.operand->data = arena_->data() + s.buffer + s.byte_offset;
  generation_ = arena_->generation();
}

void Program::run(void* const* inputs, void* const* outputs, size_t begin, size_t end, int64_t* nanoseconds) {
  if (generation_ != arena_->generation()) resolve_arena();
  for (const Patch& p : input_patches_) p.operand->data = static_cast<char*>(inputs[p.index]) + p.byte_offset;
  for (const Patch& p : output_patches_) p.operand->data = static_cast<char*>(outputs[p.index]) + p.byte_offset;
  RunContext ctx(threads_ > 1 ? &ThreadPool::instance() : nullptr, threads_, arena_->scratch(), arena_->scratch() + shared_scratch_,
                 thread_scratch_);
  for (size_t k = begin; k < end; k++) {
    auto start = nanoseconds ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    try {
      kernels_[k]->run(ctx);
    } catch (const std::exception& e) {
      throw LaunchError(k, e.what());
    }
    if (nanoseconds)
      nanoseconds[k] = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  }
}

}  // namespace ptrt
