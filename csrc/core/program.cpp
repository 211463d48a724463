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
constexpr size_t kAlign = 64, kHuge = size_t{2} << 20, kMaxScratch = size_t{1} << 46;
constexpr size_t kFirstBlock = size_t{64} << 10, kLargestBlock = size_t{8} << 20;  // of memory for packed weights
constexpr size_t kSharedBytes = size_t{1} << 20;                                   // larger weights would leave too much of a block
constexpr size_t kLazyBytes = size_t{1} << 20;                                     // smaller weights are packed at bind
constexpr int kMaxThreads = 1024;

size_t round_up(size_t n, size_t a) { return (n + a - 1) / a * a; }
}  // namespace

char* allocate(size_t bytes) {
  if (bytes == 0) bytes = kAlign;
  const bool huge = bytes >= kHuge;
  void* p = nullptr;
  if (posix_memalign(&p, huge ? kHuge : size_t{4096}, round_up(bytes, kAlign)) != 0) throw std::bad_alloc();
  if (huge) madvise(p, bytes, MADV_HUGEPAGE);
  return static_cast<char*>(p);
}

namespace {
// Have the system map the pages of `memory` in advance, on several threads: zeroing fresh pages is most of the cost of packing a model's
// weights. Where the advice is unknown, pages are faulted in one by one as before.
void populate(char* memory, size_t bytes, int threads) {
#if defined(MADV_POPULATE_WRITE)
  static constexpr uintptr_t kPiece = uintptr_t{2} << 20;
  struct Job {
    uintptr_t from, to;
  };
  if (bytes < 2 * kPiece) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<uintptr_t>(memory);
  Job job{at / page * page, at + bytes};
  auto piece = [](void* self, int64_t task, int) {
    const Job& j = *static_cast<const Job*>(self);
    const uintptr_t at = j.from + static_cast<uintptr_t>(task) * kPiece;
    madvise(reinterpret_cast<void*>(at), std::min(kPiece, j.to - at), MADV_POPULATE_WRITE);
  };
  ThreadPool::instance().run(static_cast<int64_t>((job.to - job.from + kPiece - 1) / kPiece), threads, piece, &job);
#else
  (void)memory, (void)bytes, (void)threads;
#endif
}

// Stands for a launch whose outputs are all empty, so that kernels never see one.
class Nothing final : public Kernel {
 public:
  using Kernel::Kernel;
  void run(const RunContext&) override {}
  std::string describe() const override { return "nothing"; }
};

bool writes_nothing(const LaunchDesc& d) {
  return std::all_of(d.outs.begin(), d.outs.end(), [](const Operand& o) { return !o.present() || o.size() == 0; });
}
}  // namespace

void give_back(const Operand& source, int64_t begin, int64_t end) {
  if (!(source.flags & Operand::kMapped) || end <= begin) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), item = static_cast<uintptr_t>(itemsize(source.dtype));
  const auto at = reinterpret_cast<uintptr_t>(source.data);
  const uintptr_t lo = (at + static_cast<uintptr_t>(begin) * item + page - 1) / page * page;
  const uintptr_t hi = (at + static_cast<uintptr_t>(end) * item) / page * page;
  if (hi > lo) madvise(reinterpret_cast<void*>(lo), hi - lo, MADV_DONTNEED);
}

void give_back(const Operand& source) { give_back(source, 0, source.dense_size()); }

Arena::~Arena() {
  std::free(data_);
  std::free(scratch_);
}

void Arena::reserve(size_t data_bytes, size_t scratch_bytes) {
  if (data_bytes <= data_bytes_ && scratch_bytes <= scratch_bytes_ && data_) return;
  auto grow = [&](char*& memory, size_t& have, size_t want) {
    if (want <= have && memory) return;
    char* bigger = allocate(want);  // before the old block goes: if this throws, earlier programs still have theirs
    std::free(memory);
    memory = bigger;
    have = want;
    generation_++;
  };
  grow(data_, data_bytes_, data_bytes);
  grow(scratch_, scratch_bytes_, scratch_bytes);
}

class Packs::Entry final : public LazyPack {
 public:
  Entry(Packs& packs, size_t bytes) : packs_(packs), bytes_(bytes) {}

  const std::shared_ptr<const void>& pack(const Operand& source, int threads,
                                          const std::function<void(void*)>& fill) {  // holding the mutex
    if (memory_) return memory_;
    const std::shared_ptr<char> memory = packs_.memory(bytes_);
    populate(memory.get(), bytes_, threads);
    fill(memory.get());
    give_back(source);
    memory_ = memory;
    data_.store(memory.get(), std::memory_order_release);
    packs_.bytes_ += bytes_;
    return memory_;
  }
  const std::shared_ptr<const void>& packed_memory() const { return memory_; }  // holding the mutex

 protected:
  const void* first_uses(const Operand& source, int threads, const std::function<void(void*)>& fill) override {
    std::lock_guard<std::mutex> lock(packs_.mutex_);
    return uses_++ && !packs_.in_file_ ? pack(source, threads, fill).get() : nullptr;
  }

 private:
  Packs& packs_;
  const size_t bytes_;
  int64_t uses_ = 0;
  std::shared_ptr<const void> memory_;
};

std::shared_ptr<char> Packs::memory(size_t bytes) {
  const size_t want = round_up(std::max<size_t>(bytes, 1), kAlign);
  if (want > block_left_) {
    const size_t block = std::clamp(bytes_, kFirstBlock, kLargestBlock);  // about as much again as there is
    if (want >= std::min(block, kSharedBytes)) return {allocate(want), std::free};
    block_left_ = block < kHuge ? block : round_up(block, kHuge);
    block_ = {allocate(block_left_), std::free};
    block_at_ = block_.get();
  }
  const std::shared_ptr<char> part(block_, block_at_);
  block_at_ += want;
  block_left_ -= want;
  return part;
}

std::string Packs::key(const Operand& source, const std::string& layout) {
  return layout + "@" + std::to_string(reinterpret_cast<uintptr_t>(source.data));
}

std::shared_ptr<const void> Packs::find(const Operand& source, const std::string& layout) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = map_.find(key(source, layout));
  return found == map_.end() ? nullptr : found->second->packed_memory();
}

std::shared_ptr<Packs::Entry> Packs::entry(const Operand& source, const std::string& layout, size_t bytes) {
  std::shared_ptr<Entry>& found = map_[key(source, layout)];
  if (!found) found = std::make_shared<Entry>(*this, bytes);
  return found;
}

std::shared_ptr<const void> Packs::get(const Operand& source, const std::string& layout, size_t bytes,
                                       const std::function<void(void*)>& fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  return entry(source, layout, bytes)->pack(source, threads_, fill);
}

std::shared_ptr<LazyPack> Packs::lazily(const Operand& source, const std::string& layout, size_t bytes,
                                        const std::function<void(void*)>& fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<Entry> found = entry(source, layout, bytes);
  const bool in_file = source.flags & Operand::kMapped && source.dense_size() > 0;
  if ((at_bind_ && !in_file_) || bytes < kLazyBytes || !in_file) found->pack(source, threads_, fill);
  return found;
}

Program::Program(const int64_t* code, size_t words, const std::vector<Const>& consts, const KernelTable& table,
                 std::shared_ptr<Arena> arena, std::shared_ptr<Packs> packs, int threads, const Program* like)
    : table_(table), arena_(std::move(arena)), packs_(std::move(packs)), threads_(std::clamp(threads, 1, kMaxThreads)) {
  Decoder decoder(code, words, consts);
  buffers_ = decoder.buffers();
  for (const Const& c : consts) consts_.push_back(c.data);
  auto needs = [](std::vector<int64_t>& bytes, const BufferInfo& b) {
    const auto k = static_cast<size_t>(b.value);
    if (bytes.size() <= k) bytes.resize(k + 1, 0);
    bytes[k] = std::max(bytes[k], b.nbytes);
  };
  for (const BufferInfo& b : buffers_) {
    if (b.kind == kArenaBuffer) arena_bytes_ = std::max(arena_bytes_, static_cast<size_t>(b.value + b.nbytes));
    else if (b.kind == kInputBuffer) needs(input_bytes_, b);
    else if (b.kind == kOutputBuffer) needs(output_bytes_, b);
  }
  packs_->use_threads(threads_);
  strands_ = decoder.strands();
  const BindContext all{*packs_, threads_}, one{*packs_, 1};
  if (like && !shares(*like)) like = nullptr;
  size_t group = 0, strand_thread = 0;
  std::vector<OperandRef> refs;
  for (size_t l = 0; l < static_cast<size_t>(decoder.num_launches()); l++) {
    const bool in_strand = strands_of(l, group);
    std::shared_ptr<Launch> launch;
    try {
      if (like && l < like->launches_.size() && like->launches_[l]->in_strand == in_strand) {
        const Launch& same = *like->launches_[l];
        refs = same.refs;
        if (decoder.skip(same.words, refs, same.kernel->constants_move())) {
          launch = like->launches_[l];
          shared_launches_++;
        }
      }
      if (!launch) {
        launch = bound(decoder, in_strand ? one : all, in_strand);
        refs = launch->refs;
      }
      const size_t shared = launch->kernel->shared_scratch_bytes(), per_thread = launch->kernel->thread_scratch_bytes();
      if (shared > kMaxScratch || per_thread > kMaxScratch) throw KernelError("the scratch memory it needs is too large");
      size_t &most_shared = in_strand ? strand_shared_ : shared_scratch_, &most_thread = in_strand ? strand_thread : thread_scratch_;
      most_shared = std::max(most_shared, round_up(shared, kAlign));
      most_thread = std::max(most_thread, round_up(per_thread, kAlign));
    } catch (const std::exception& e) {
      throw LaunchError(l, e.what());
    }
    place(*launch, refs);
    launches_.push_back(std::move(launch));
  }
  strand_scratch_ = strand_shared_ + strand_thread;
  scratch_bytes_ =
      std::max(shared_scratch_ + thread_scratch_ * static_cast<size_t>(threads_), strand_scratch_ * static_cast<size_t>(threads_));
  arena_->reserve(arena_bytes_, scratch_bytes_);
}

bool Program::shares(const Program& like) const {
  const auto same = [](const BufferInfo& a, const BufferInfo& b) {
    return a.kind == b.kind && (a.kind == kArenaBuffer || a.value == b.value);
  };
  return &like.table_ == &table_ && like.arena_ == arena_ && like.packs_ == packs_ && like.threads_ == threads_ &&
         like.consts_ == consts_ && std::equal(buffers_.begin(), buffers_.end(), like.buffers_.begin(), like.buffers_.end(), same);
}

std::shared_ptr<Program::Launch> Program::bound(Decoder& decoder, BindContext bind, bool in_strand) const {
  auto launch = std::make_shared<Launch>();
  launch->in_strand = in_strand;
  const int64_t* words = decoder.at();
  LaunchDesc d = decoder.next(launch->refs);
  launch->words.assign(words, decoder.at());
  const Factory make = table_.factories[d.kernel];
  if (!make) throw KernelError(std::string("kernel '") + kKernelNames[d.kernel] + "' is not available");
  if (writes_nothing(d)) launch->kernel = std::make_unique<Nothing>(std::move(d));
  else launch->kernel = make(std::move(d), bind);
  const LaunchDesc& now = launch->kernel->desc;
  if (now.ins.size() + now.outs.size() + now.pro_ins.size() + now.epi_ins.size() != launch->refs.size())
    throw KernelError("the kernel changed its operands");
  return launch;
}

// Notes where the operands of a launch will have to point to.
void Program::place(Launch& launch, const std::vector<OperandRef>& refs) {
  size_t k = 0;
  LaunchDesc& d = launch.kernel->desc;
  for (auto* list : {&d.ins, &d.outs, &d.pro_ins, &d.epi_ins})
    for (auto& o : *list) {
      const OperandRef& ref = refs[k++];
      if (ref.buffer < 0) continue;
      const BufferInfo& b = buffers_[static_cast<size_t>(ref.buffer)];
      if (b.kind == kArenaBuffer) arena_slots_.push_back({&o, b.value + ref.byte_offset});
      else if (b.kind == kInputBuffer) input_patches_.push_back({&o, b.value, ref.byte_offset});
      else if (b.kind == kOutputBuffer) output_patches_.push_back({&o, b.value, ref.byte_offset});
      else if (launch.kernel->constants_move())
        moved_constants_.push_back({&o, static_cast<char*>(consts_[static_cast<size_t>(b.value)]) + ref.byte_offset});
    }
}

void Program::resolve_arena() {
  for (const Slot& s : arena_slots_) s.operand->data = arena_->data() + s.byte_offset;
  for (const auto& [operand, address] : moved_constants_) operand->data = address;
  generation_ = arena_->generation();
  arena_->resolved = this;
}

void Program::run(void* const* inputs, void* const* outputs, size_t begin, size_t end, int64_t* nanoseconds) {
  if (begin > end || end > launches_.size()) throw KernelError("program: there are no such launches");
  if (generation_ != arena_->generation() || arena_->resolved != this) resolve_arena();
  for (const Patch& p : input_patches_) p.operand->data = static_cast<char*>(inputs[p.index]) + p.byte_offset;
  for (const Patch& p : output_patches_) p.operand->data = static_cast<char*>(outputs[p.index]) + p.byte_offset;
  RunContext ctx(threads_ > 1 ? &ThreadPool::instance() : nullptr, threads_, arena_->scratch(), arena_->scratch() + shared_scratch_,
                 thread_scratch_);
  size_t group = 0;
  for (size_t k = begin; k < end;) {
    const Strands* strands = strands_of(k, group);
    if (!strands) {
      run_launch(k++, ctx, nanoseconds);
    } else if (strands->begin == k && strands->ends.back() <= end) {
      run_strands(*strands, ctx, nanoseconds);
      k = strands->ends.back();
    } else {
      run_launch(k++, one_worker(0), nanoseconds);
    }
  }
}

const Strands* Program::strands_of(size_t launch, size_t& group) const {
  while (group < strands_.size() && strands_[group].ends.back() <= launch) group++;
  return group < strands_.size() && strands_[group].begin <= launch ? &strands_[group] : nullptr;
}

RunContext Program::one_worker(int worker) const {
  char* scratch = arena_->scratch() + static_cast<size_t>(worker) * strand_scratch_;
  return {nullptr, 1, scratch, scratch + strand_shared_, 0};
}

void Program::run_launch(size_t k, const RunContext& ctx, int64_t* nanoseconds) {
  auto start = nanoseconds ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
  try {
    launches_[k]->kernel->run(ctx);
  } catch (const std::exception& e) {
    throw LaunchError(k, e.what());
  }
  if (nanoseconds) nanoseconds[k] = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
}

void Program::run_strands(const Strands& strands, const RunContext& ctx, int64_t* nanoseconds) {
  ctx.parallel(static_cast<int64_t>(strands.ends.size()), [&](int64_t strand, int worker) {
    const RunContext one = one_worker(worker);
    const auto s = static_cast<size_t>(strand);
    for (size_t k = s ? strands.ends[s - 1] : strands.begin; k < strands.ends[s]; k++) run_launch(k, one, nanoseconds);
  });
  if (nanoseconds)  // so that the times of all launches add up to the time of the run
    for (size_t k = strands.begin; k < strands.ends.back(); k++) nanoseconds[k] /= static_cast<int64_t>(strands.ends.size());
}

}  // namespace ptrt
